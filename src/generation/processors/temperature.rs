//! `temperature`: below 1 sharpens the distribution that tokens are drawn from, above 1 flattens
//! it.

use super::{History, LogitsProcessor, ParamError, ParamReader, Registered};

#[derive(Debug)]
struct Temperature(f32);

pub(super) fn read(reader: &mut ParamReader<'_>) -> Result<Registered, ParamError> {
    let range = "a number above 0; for greedy search set do_sample to false";
    let temperature = reader.number("temperature", range, |temperature| temperature > 0.0)?;
    Ok(temperature.filter(|temperature| *temperature != 1.0).map(|temperature| Box::new(Temperature(temperature)) as _))
}

impl LogitsProcessor for Temperature {
    fn process(&self, scores: &mut [f32], _: History<'_>) {
        for score in scores {
            *score /= self.0;
        }
    }
}
