use super::*;
use crate::repository::external::example;

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

/// Reads the model in a folder of a model's file and others.
fn read(model: &[u8], others: &[(&str, &[u8])]) -> Result<ModelFiles, String> {
    let root = folder(&[&[("model.onnx", model)], others].concat());
    ModelFiles::read(&root.path().join("model.onnx"))
}

#[test]
fn a_model_is_a_file_or_a_folder_of_that_name() {
    for (file, name) in [
        ("model.onnx", "model.onnx"),
        ("model.onnx/model.onnx", "model.onnx"),
        ("net.onnx/net.onnx", "net.onnx"),
        ("net.onnx/model.onnx", "net.onnx"),
    ] {
        let root = folder(&[(file, b"")]);
        assert_eq!(find(root.path(), name), Some(root.path().join(file)), "{file}");
    }
    assert_eq!(find(folder(&[("other.onnx", b"")]).path(), "model.onnx"), None);
}

#[test]
fn the_digest_is_that_of_the_only_file_or_of_the_manifest() {
    let plain = example(&[]);
    let alone = read(&plain, &[("README.md", b"not named by the model")]).unwrap();
    assert_eq!(alone.digest(), Digest::of(&plain));

    let model = example(&["./deep/b.bin", "a.bin", "deep/b.bin"]);
    let root =
        folder(&[("model.onnx", &model), ("a.bin", b"12345678"), ("deep/b.bin", b"abcdefgh")]);
    let path = root.path().join("model.onnx");
    let line = |bytes: &[u8], name: &str| {
        format!("{}  {name}\n", Digest::of(bytes).to_string().trim_start_matches("sha256:"))
    };
    let manifest =
        line(b"12345678", "a.bin") + &line(b"abcdefgh", "deep/b.bin") + &line(&model, "model.onnx");
    let expected = Digest::of(manifest.as_bytes());
    assert_eq!(ModelFiles::read(&path).unwrap().digest(), expected);
    assert_eq!(digest(&path), Ok(expected));
    fs::write(root.path().join("a.bin"), b"87654321").unwrap();
    assert_ne!(digest(&path), Ok(expected));
}

#[test]
fn data_is_kept_under_every_name_that_the_model_uses() {
    let model = example(&["w.bin", "./w.bin"]);
    let bytes = read(&model, &[("w.bin", b"12345678")]).unwrap().into_bytes().unwrap();
    let names: Vec<_> = bytes.external.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["./w.bin", "w.bin"]);
    assert!(Arc::ptr_eq(&bytes.external[0].1, &bytes.external[1].1));
    assert_eq!(bytes.model, model);
}

#[test]
fn files_that_are_no_models_are_named_for_what_they_are() {
    for (model, others, complaint) in [
        (&b""[..], &[][..], "model.onnx is empty"),
        (b"PK\x03\x04archive", &[], "is a ZIP archive, such as PyTorch saves"),
        (b"version https://git-lfs.github.com/spec/v1\noid", &[], "run `git lfs pull`"),
        (b"no protobuf", &[], "model.onnx is not an ONNX model"),
        (&example(&["w.bin"]), &[], "cannot read "),
        (&example(&["../w.bin"]), &[], "is in \"../w.bin\": only files in the folder"),
        (&example(&["/etc/passwd"]), &[], "is in \"/etc/passwd\": only files in the folder"),
        (&example(&[""]), &[], "is in \"\": only files in the folder"),
        (
            &example(&["w.bin"]),
            &[("w.bin", &b"1234"[..])],
            "its data file w.bin has 4 bytes, but the model needs 8: the file is not complete",
        ),
        (
            &example(&["w.bin"]),
            &[("w.bin", &b"version https://git-lfs.github.com/spec/v1\noid"[..])],
            "w.bin is a pointer of Git LFS",
        ),
    ] {
        let error = read(model, others).unwrap_err();
        assert!(error.contains(complaint), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_within_the_folder_of_either_end_and_nowhere_else() {
    use std::os::unix::fs::symlink;

    let model = example(&["w.bin"]);
    // The cache of Hugging Face: both files are links into one folder.
    let blobs = folder(&[("aa", &model), ("bb", b"12345678")]);
    let snapshot = folder(&[]);
    symlink(blobs.path().join("aa"), snapshot.path().join("model.onnx")).unwrap();
    symlink(blobs.path().join("bb"), snapshot.path().join("w.bin")).unwrap();
    assert!(ModelFiles::read(&snapshot.path().join("model.onnx")).is_ok());
    // A ConfigMap of Kubernetes.
    let mounted = folder(&[("..2026/model.onnx", &model), ("..2026/w.bin", b"12345678")]);
    symlink("..2026", mounted.path().join("..data")).unwrap();
    for name in ["model.onnx", "w.bin"] {
        symlink(Path::new("..data").join(name), mounted.path().join(name)).unwrap();
    }
    assert!(ModelFiles::read(&mounted.path().join("model.onnx")).is_ok());

    let elsewhere = folder(&[("model.onnx", &model)]);
    symlink(blobs.path().join("bb"), elsewhere.path().join("w.bin")).unwrap();
    let error = ModelFiles::read(&elsewhere.path().join("model.onnx")).unwrap_err();
    assert!(error.starts_with("its data file w.bin is a link to /"), "{error}");
}
