//! Images of every format through the service; what becomes of their pixels is tested beside the code.

use crate::helpers::{base64, body, fixture, spawn_app};
use crate::scripted_model::{Script, engine};

#[test]
fn every_supported_format_is_scored() {
    let app = spawn_app(Some(engine(Script::default(), 1, 8)));
    for file in
        ["jpeg-420.jpg", "jpeg-progressive-444.jpg", "jpeg-cmyk.jpg", "png-rgba-16.png", "gif.gif", "bmp-24.bmp"]
    {
        let image = base64(&fixture(&format!("images/{file}")));
        assert_eq!(app.score(&body(&[(&image, "seen")])).texts(), ["seen"], "{file}");
    }
}
