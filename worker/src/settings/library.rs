//! Finds ONNX Runtime's library.

use std::path::{Path, PathBuf};

use batchfleet_service::InvalidSettings;

/// The file in the settings, or the first default location that exists.
pub(super) fn find_library(named: Option<&Path>) -> Result<PathBuf, InvalidSettings> {
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent).unwrap_or(Path::new("."));
    let usual = [
        beside.join("lib/libonnxruntime.so"),
        PathBuf::from(".cache/onnxruntime/libonnxruntime.so"),
    ];
    find_among(named, &usual)
}

fn find_among(named: Option<&Path>, usual: &[PathBuf]) -> Result<PathBuf, InvalidSettings> {
    let tried = named.map_or_else(|| usual.to_vec(), |named| vec![named.to_owned()]);
    tried.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
        InvalidSettings::new(format_args!(
            "ONNX Runtime's library is not at {}: name its file with --onnxruntime FILE, or run `make \
             onnxruntime` in a folder of the sources",
            tried.join(" or ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_names_the_searched_files_and_how_to_get_it() {
        let missing = [PathBuf::from("/nowhere/a.so"), PathBuf::from("/nowhere/b.so")];
        let error = find_among(None, &missing).unwrap_err().to_string();
        assert!(error.contains("not at /nowhere/a.so or /nowhere/b.so: name its file"));
        let named = find_among(Some(Path::new("/nowhere/c.so")), &missing).unwrap_err();
        assert!(named.to_string().contains("not at /nowhere/c.so:"));
    }
}
