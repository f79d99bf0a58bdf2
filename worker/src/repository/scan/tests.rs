use super::*;
use crate::repository::{external::example, files::digest};

/// A repository with these files.
fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

fn names(root: &Path, wanted: &[&str]) -> Vec<String> {
    let wanted: Vec<Wanted> = wanted.iter().map(|model| model.parse().unwrap()).collect();
    let found = scan(root, &wanted).unwrap();
    assert!(found.bad.is_empty(), "{:?}", found.bad);
    found.sources.iter().map(|source| source.queue.to_string()).collect()
}

/// The error of a repository with one model that cannot be served, or none.
fn only_error(root: &Path, wanted: &[&str]) -> String {
    let wanted: Vec<Wanted> = wanted.iter().map(|model| model.parse().unwrap()).collect();
    match scan(root, &wanted) {
        Ok(mut found) => {
            assert_eq!((found.sources.len(), found.bad.len()), (0, 1));
            found.bad.remove(0).error.to_string()
        }
        Err(error) => error.to_string(),
    }
}

const TWO_MODELS: [(&str, &str); 6] = [
    ("digits/1/model.onnx", "a model"),
    ("digits/10/model.onnx", "a model"),
    ("digits/2/model.onnx", "a model"),
    ("magika/1/model.onnx", "a model"),
    (".cache/1/model.onnx", ""),
    ("README.md", ""),
];

#[test]
fn serves_the_latest_version_of_every_model() {
    let root = repository(&TWO_MODELS);
    assert_eq!(names(root.path(), &[]), ["digits:10", "magika:1"]);
    assert_eq!(names(root.path(), &["magika"]), ["magika:1"]);
}

#[test]
fn serves_the_versions_a_policy_names() {
    for (policy, expected) in [
        ("all {}", vec!["digits:1", "digits:2", "digits:10"]),
        ("latest { num_versions: 2 }", vec!["digits:2", "digits:10"]),
        ("specific { versions: [2, 1] }", vec!["digits:1", "digits:2"]),
    ] {
        let root = repository(&TWO_MODELS);
        let config = format!("version_policy: {{ {policy} }}");
        fs::write(root.path().join("digits/config.pbtxt"), config).unwrap();
        assert_eq!(names(root.path(), &["digits"]), expected, "{policy}");
    }
}

#[test]
fn serves_the_versions_that_are_asked_for_whatever_the_policy() {
    let root = repository(&TWO_MODELS);
    assert_eq!(names(root.path(), &["digits:2"]), ["digits:2"]);
    assert_eq!(names(root.path(), &["digits:10", "digits:1"]), ["digits:1", "digits:10"]);
    let third = only_error(root.path(), &["digits:3"]);
    assert_eq!(third, "model digits: --model asks for version 3, which is not there");
}

#[test]
fn serves_no_other_model_than_the_one_with_the_digest() {
    let root = repository(&TWO_MODELS);
    let (file, model) = (root.path().join("digits/2/model.onnx"), example(&["w.bin"]));
    let weights = root.path().join("digits/2/w.bin");
    fs::write(&file, &model).unwrap();
    fs::write(&weights, "12345678").unwrap();
    let digest = digest(&file).unwrap();
    let read = || {
        let wanted = format!("digits:2@{digest}").parse().unwrap();
        scan(root.path(), &[wanted]).unwrap().sources.remove(0).read()
    };
    assert_eq!(read().unwrap().model, model);
    for (path, content) in [(&weights, &b"87654321"[..]), (&file, &example(&[]))] {
        fs::write(path, content).unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.starts_with("model digits:2 has the digest sha256:"), "{error}");
    }
    assert!(scan(root.path(), &["digits:2".parse().unwrap()]).unwrap().sources[0].read().is_ok());
}

#[test]
fn an_echo_needs_no_version_folder() {
    let root = repository(&[("echo/config.pbtxt", "backend: \"batchfleet_echo\"")]);
    assert_eq!(names(root.path(), &[]), ["echo:1"]);
}

#[test]
fn says_what_is_wrong_with_a_repository() {
    let root = repository(&TWO_MODELS);
    fs::write(root.path().join("magika/config.pbtxt"), "name: \"magic\"").unwrap();
    let complaint = |wanted: &str| only_error(root.path(), &[wanted]);
    assert_eq!(complaint("magika"), "model magika: its config.pbtxt names it \"magic\"");
    assert!(complaint("cats").ends_with("there is: digits, magika"));
    fs::write(root.path().join("magika/config.pbtxt"), "\n\nmax_batch_size 1").unwrap();
    assert!(complaint("magika").contains("config.pbtxt, line 3: expected ':'"));
}

#[test]
fn an_empty_or_missing_repository_is_refused() {
    let root = repository(&[("README.md", "")]);
    assert!(matches!(scan(root.path(), &[]), Err(RepositoryError::Empty { .. })));
    let missing = scan(&root.path().join("no"), &[]);
    assert!(matches!(missing, Err(RepositoryError::Unreadable { .. })));
}

#[test]
fn a_bad_model_does_not_hide_the_others() {
    let root = repository(&TWO_MODELS);
    fs::write(root.path().join("magika/config.pbtxt"), "{").unwrap();
    fs::create_dir_all(root.path().join("new")).unwrap();
    fs::write(root.path().join("digits/config.pbtxt"), "version_policy { all {} }").unwrap();
    fs::remove_file(root.path().join("digits/2/model.onnx")).unwrap();
    let found = scan(root.path(), &[]).unwrap();
    let served: Vec<_> = found.sources.iter().map(|source| source.queue.to_string()).collect();
    assert_eq!(served, ["digits:1", "digits:10"]);
    let bad: Vec<_> = found.bad.iter().map(|bad| (bad.name.as_str(), bad.version)).collect();
    assert_eq!(bad, [("digits", Some(2)), ("magika", None), ("new", None)]);
}

#[test]
fn a_version_that_is_still_being_copied_does_not_replace_an_older_one() {
    let root = repository(&TWO_MODELS);
    fs::create_dir_all(root.path().join("digits/11")).unwrap();
    assert_eq!(names(root.path(), &[]), ["digits:10", "magika:1"]);
    fs::write(root.path().join("digits/11/model.onnx"), "").unwrap();
    assert_eq!(names(root.path(), &[]), ["digits:10", "magika:1"]);
    fs::write(root.path().join("digits/11/model.onnx"), "complete").unwrap();
    assert_eq!(names(root.path(), &[]), ["digits:11", "magika:1"]);
}

#[test]
fn a_folder_called_as_the_model_contains_the_model() {
    let root = repository(&[("large/1/model.onnx/model.onnx", "a model")]);
    let found = scan(root.path(), &[]).unwrap();
    assert!(found.sources[0].file.ends_with("1/model.onnx/model.onnx"));
}

#[test]
fn folders_with_names_that_are_not_allowed_are_left_out_or_named() {
    let root = repository(&[("my model/1/model.onnx", "a model"), (".git/config", "")]);
    let error = only_error(root.path(), &[]);
    assert!(error.contains("; \"my model\" cannot be served, because the name of a"), "{error}");
    let root =
        repository(&[("my model/1/model.onnx", "a model"), ("good/1/model.onnx", "a model")]);
    assert_eq!(names(root.path(), &[]), ["good:1"]);
}

#[test]
fn a_part_of_a_repository_is_not_taken_for_the_whole() {
    let root = repository(&TWO_MODELS);
    for part in ["digits", "digits/2"] {
        let error = only_error(&root.path().join(part), &[]);
        assert!(
            error.ends_with(&format!("the repository is {}", root.path().display())),
            "{error}"
        );
    }
}
