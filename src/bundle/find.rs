//! Finds the only `manifest.json` below a folder: platforms mount a registered model at different
//! depths.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::BundleError;

/// The only file of a bundle whose name is fixed.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The greatest depth of a manifest: `<mount>/<name>/<version>/<folder>`, and one more.
const MAX_DEPTH: usize = 5;

/// The most names in the message about a folder without a bundle.
const MAX_NAMES: usize = 8;

/// Returns the manifest at or below `path`, which may also be the manifest itself.
///
/// # Errors
/// [`BundleError::NotFound`] without one, [`BundleError::Ambiguous`] with more than one.
pub fn find_manifest(path: &Path) -> Result<PathBuf, BundleError> {
    if path.is_file() && path.file_name().is_some_and(|name| name == MANIFEST_FILE) {
        return Ok(path.to_path_buf());
    }
    let mut found = Vec::new();
    search(path, 0, &mut found);
    let found = without_links(found);
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(BundleError::NotFound { path: path.to_path_buf(), seen: describe(path) }),
        many => {
            let names: Vec<_> = many.iter().filter_map(|file| file.parent()).map(|p| p.display().to_string()).collect();
            Err(BundleError::Ambiguous { path: path.to_path_buf(), found: names.join(", ") })
        }
    }
}

fn search(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let candidate = folder.join(MANIFEST_FILE);
    if candidate.is_file() {
        found.push(candidate);
        return; // a bundle holds no other bundle
    }
    if depth == MAX_DEPTH {
        return;
    }
    for path in entries(folder).unwrap_or_default() {
        if path.is_dir() && !is_hidden(&path) {
            search(&path, depth + 1, found);
        }
    }
}

/// Returns the entries of a folder, in order.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Returns whether a folder is not part of a model: repositories and notebooks leave some.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Removes links to bundles that were found already.
fn without_links(mut found: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    found.retain(|path| {
        let place = path.canonicalize().unwrap_or_else(|_| path.clone());
        let is_new = !seen.contains(&place);
        seen.push(place);
        is_new
    });
    found
}

/// Describes the content of a folder without a bundle, for a user who named the wrong folder.
fn describe(path: &Path) -> String {
    match entries(path) {
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => "it does not exist".into(),
            io::ErrorKind::NotADirectory => "it is not a folder".into(),
            _ => format!("it cannot be read: {error}"),
        },
        Ok(entries) if entries.is_empty() => "it is empty".into(),
        Ok(_) => {
            let mut seen = Seen::default();
            look_around(path, path, 0, &mut seen);
            let Seen { names, more } = seen;
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("it holds {}{rest}", names.join(", "))
        }
    }
}

#[derive(Default)]
struct Seen {
    names: Vec<String>,
    more: usize,
}

/// Lists files, and folders without files or that cannot be read, by their path below `root`.
fn look_around(root: &Path, folder: &Path, depth: usize, seen: &mut Seen) {
    for path in entries(folder).unwrap_or_default() {
        let is_folder = path.is_dir();
        if is_folder && depth < MAX_DEPTH && !is_hidden(&path) && entries(&path).is_ok_and(|held| !held.is_empty()) {
            look_around(root, &path, depth + 1, seen);
        } else if seen.names.len() == MAX_NAMES {
            seen.more += 1;
        } else {
            let name = path.strip_prefix(root).unwrap_or(&path).display();
            seen.names.push(format!("{name}{}", if is_folder { "/" } else { "" }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle_at(path: &Path) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join(MANIFEST_FILE), "{}").unwrap();
    }

    #[test]
    fn a_bundle_is_found_at_any_depth_of_a_mount() {
        for nested in ["", "folder", "name/1", "name/1/folder"] {
            let root = tempfile::tempdir().unwrap();
            bundle_at(&root.path().join(nested));
            assert_eq!(find_manifest(root.path()).unwrap(), root.path().join(nested).join(MANIFEST_FILE));
        }
    }

    #[test]
    fn a_mount_is_found_however_its_path_is_written() {
        let root = tempfile::tempdir().unwrap();
        let name = root.path().display();
        bundle_at(&root.path().join("azureml-models/blip2/1/bundle"));
        for path in [
            format!("{name}/azureml-models/blip2/1"),
            format!("{name}/azureml-models/blip2/1/"),
            format!("{name}/azureml-models//blip2/1"),
            format!("{name}/azureml-models//blip2//1//bundle/"),
            format!("{name}/azureml-models/blip2/1/bundle/manifest.json"),
            format!("{name}/azureml-models/./blip2"),
        ] {
            assert!(find_manifest(Path::new(&path)).unwrap().is_file(), "{path}");
        }
    }

    #[test]
    fn the_folder_around_a_model_may_hold_other_files_hidden_folders_and_links() {
        let root = tempfile::tempdir().unwrap();
        let parent = root.path();
        bundle_at(&parent.join("bundle"));
        bundle_at(&parent.join(".git/hooks"));
        fs::write(parent.join("deployment.yml"), "").unwrap();
        fs::create_dir(parent.join("notes")).unwrap();
        std::os::unix::fs::symlink(parent.join("bundle"), parent.join("latest")).unwrap();
        std::os::unix::fs::symlink(parent, parent.join("notes/around")).unwrap();
        assert_eq!(find_manifest(parent).unwrap(), parent.join("bundle").join(MANIFEST_FILE));
    }

    #[test]
    fn what_was_found_instead_is_listed_down_to_its_files_but_not_without_end() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("model/onnx/empty")).unwrap();
        fs::write(root.path().join("model/onnx/decoder.onnx"), "").unwrap();
        let message = find_manifest(root.path()).unwrap_err().to_string();
        assert!(message.contains("it holds model/onnx/decoder.onnx, model/onnx/empty/)"), "{message}");
        (0..20).for_each(|number| fs::write(root.path().join(format!("{number:02}")), "").unwrap());
        let message = find_manifest(root.path()).unwrap_err().to_string();
        assert!(message.contains("00, 01, 02, 03, 04, 05, 06, 07 and 14 more"), "{message}");
        let file = root.path().join("00");
        assert!(find_manifest(&file).unwrap_err().to_string().contains("it is not a folder"));
    }

    #[test]
    fn two_bundles_are_refused_and_both_are_named() {
        let root = tempfile::tempdir().unwrap();
        bundle_at(&root.path().join("a"));
        bundle_at(&root.path().join("b"));
        let message = find_manifest(root.path()).unwrap_err().to_string();
        assert!(message.contains("/a,") && message.contains("/b"), "{message}");
    }

    #[test]
    fn an_empty_a_missing_and_a_filled_folder_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        assert!(find_manifest(root.path()).unwrap_err().to_string().contains("it is empty"));
        let missing = root.path().join("nowhere");
        assert!(find_manifest(&missing).unwrap_err().to_string().contains("does not exist"));
        fs::write(root.path().join("model.bin"), "x").unwrap();
        assert!(find_manifest(root.path()).unwrap_err().to_string().contains("it holds model.bin"));
    }
}
