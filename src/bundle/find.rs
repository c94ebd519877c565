//! Finds the one `manifest.json` below a folder: a registered model's folder is mounted at different depths.

use std::fs;
use std::path::{Path, PathBuf};

use super::BundleError;

/// The only file of a bundle whose name is fixed.
pub const MANIFEST_FILE: &str = "manifest.json";

/// A model mount nests at most this deep: `<mount>/<name>/<version>/<folder>`, and one to spare.
const MAX_DEPTH: usize = 5;

/// The manifest at or below `path`, which may also be the manifest itself.
///
/// # Errors
/// [`BundleError::NotFound`] without one, [`BundleError::Ambiguous`] with more than one.
pub fn find_manifest(path: &Path) -> Result<PathBuf, BundleError> {
    if path.is_file() && path.file_name().is_some_and(|name| name == MANIFEST_FILE) {
        return Ok(path.to_path_buf());
    }
    let mut found = Vec::new();
    search(path, 0, &mut found);
    found.sort();
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
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            search(&path, depth + 1, found);
        }
    }
}

fn describe(path: &Path) -> String {
    let Ok(entries) = fs::read_dir(path) else {
        return if path.exists() { "it is not a folder".into() } else { "it does not exist".into() };
    };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if names.is_empty() {
        return "it is empty".into();
    }
    let more = names.len().saturating_sub(8);
    names.truncate(8);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("it holds {}{rest}", names.join(", "))
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
