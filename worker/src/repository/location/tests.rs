//! Fetches models from a store of local files and over the S3 protocol.

use std::collections::BTreeMap;

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::repository::scan;

const FILES: [(&str, &str); 6] = [
    ("shelf/digits/1/model.onnx", "one"),
    ("shelf/digits/2/model.onnx", "two"),
    ("shelf/digits/config.pbtxt", "max_batch_size: 8"),
    ("shelf/other/1/model.onnx", "other"),
    ("shelf/README.md", "read me"),
    ("elsewhere/digits/3/model.onnx", "three"),
];

/// Reads the files below a folder: contents by path.
fn files_in(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

/// Fetches `wanted` from `url` into an empty cache, and returns the cache's files.
async fn fetched(url: &str, wanted: &[&str], settings: &StoreSettings) -> BTreeMap<String, String> {
    let wanted: Vec<Wanted> = wanted.iter().map(|model| model.parse().unwrap()).collect();
    let location: Location = url.parse().unwrap();
    let folder = location.fetch(&wanted, settings).await.unwrap();
    assert_eq!(folder, settings.cache);
    files_in(&folder)
}

fn cache() -> (TempDir, StoreSettings) {
    let folder = tempfile::tempdir().unwrap();
    let settings = StoreSettings { cache: folder.path().join("cache"), options: None };
    (folder, settings)
}

fn store_of_files() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in FILES {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let url = format!("file://{}/shelf", folder.path().display());
    (folder, url)
}

#[tokio::test]
async fn fetches_the_requested_models_and_versions_and_nothing_else() {
    let (_store, url) = store_of_files();
    for (wanted, expected) in [
        (&["digits"][..], &["digits/2/model.onnx", "digits/config.pbtxt"][..]),
        (&["digits:1"], &["digits/1/model.onnx", "digits/config.pbtxt"]),
        (&[], &["digits/2/model.onnx", "digits/config.pbtxt", "other/1/model.onnx"]),
    ] {
        let (_folder, settings) = cache();
        let found = fetched(&url, wanted, &settings).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), expected, "{wanted:?}");
    }
}

#[tokio::test]
async fn a_model_of_many_files_is_fetched_whole_and_a_version_without_its_file_is_not() {
    let (store, url) = store_of_files();
    for path in [
        "large/1/model.onnx/model.onnx",
        "large/1/model.onnx/data/weights.bin",
        "large/1/labels.txt",
        "large/2/weights.bin",
    ] {
        let path = store.path().join("shelf").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "content").unwrap();
    }
    let (_folder, settings) = cache();
    let found = fetched(&url, &["large"], &settings).await;
    let expected = [
        "large/1/labels.txt",
        "large/1/model.onnx/data/weights.bin",
        "large/1/model.onnx/model.onnx",
    ];
    assert_eq!(found.keys().collect::<Vec<_>>(), expected);
    let large = scan(&settings.cache, &["large".parse().unwrap()]).unwrap();
    assert!(large.sources[0].file.ends_with("1/model.onnx/model.onnx"));
}

#[tokio::test]
async fn a_config_that_cannot_be_read_is_reported_after_the_others_are_fetched() {
    let (store, url) = store_of_files();
    fs::write(store.path().join("shelf/digits/config.pbtxt"), "max_batch_size 8").unwrap();
    let (_folder, settings) = cache();
    let found = fetched(&url, &[], &settings).await;
    assert!(found.contains_key("other/1/model.onnx"));
    let found = scan(&settings.cache, &[]).unwrap();
    assert_eq!((found.bad[0].name.as_str(), found.sources.len()), ("digits", 1));
}

#[tokio::test]
async fn files_fetched_before_are_removed() {
    let (store, url) = store_of_files();
    let (_folder, settings) = cache();
    fetched(&url, &["digits"], &settings).await;
    fs::remove_dir_all(store.path().join("shelf/digits/2")).unwrap();
    let found = fetched(&url, &["digits"], &settings).await;
    assert_eq!(found["digits/1/model.onnx"], "one");
    assert!(!found.contains_key("digits/2/model.onnx"));
}

#[tokio::test]
async fn a_model_that_is_not_in_the_store_is_reported_as_from_a_folder() {
    let (_store, url) = store_of_files();
    let (_folder, settings) = cache();
    fetched(&url, &["digits"], &settings).await;
    let cats: Wanted = "cats".parse().unwrap();
    let error = scan(&settings.cache, &[cats]).unwrap_err().to_string();
    assert!(error.ends_with("there is: digits"), "{error}");
}

/// Answers `GET` as S3 does, if the request is signed with the key.
async fn answer_as_s3(connection: TcpStream) {
    let mut connection = BufReader::new(connection);
    loop {
        let (mut request, mut line) = (String::new(), String::new());
        while connection.read_line(&mut line).await.unwrap() > 2 {
            request.push_str(&std::mem::take(&mut line));
        }
        let Some(target) = request.split(' ').nth(1) else { return };
        let is_signed = request.contains("Credential=key-of-a-file/");
        let key = target.split('?').next().unwrap().trim_start_matches("/bucket/");
        let body = match FILES.iter().find(|(path, _)| *path == key) {
            Some((_, content)) => (*content).to_owned(),
            None => listing(),
        };
        let status = if is_signed { "200 OK" } else { "403 Forbidden" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"e\"\r\n\
             Last-Modified: Sun, 22 Nov 2026 10:00:00 GMT\r\n\r\n",
            body.len()
        );
        connection.write_all((head + &body).as_bytes()).await.unwrap();
    }
}

fn listing() -> String {
    let shelf = FILES.iter().filter(|(path, _)| path.starts_with("shelf/"));
    let objects: Vec<String> = shelf
        .map(|(path, content)| {
            format!(
                "<Contents><Key>{path}</Key><Size>{}</Size>\
                 <LastModified>2026-11-22T10:00:00.000Z</LastModified></Contents>",
                content.len()
            )
        })
        .collect();
    format!(
        "<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>",
        objects.concat()
    )
}

#[tokio::test]
async fn fetches_from_s3_with_a_key_from_a_file() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(answer_as_s3(connection));
        }
    });
    let (folder, mut settings) = cache();
    let options = folder.path().join("options");
    fs::create_dir(&options).unwrap();
    for (name, value) in [
        ("aws_endpoint", endpoint.as_str()),
        ("aws_allow_http", "true"),
        ("aws_access_key_id", "key-of-a-file\n"),
        ("aws_secret_access_key", "secret"),
    ] {
        fs::write(options.join(name), value).unwrap();
    }
    settings.options = Some(options);
    let found = fetched("s3://bucket/shelf", &["digits"], &settings).await;
    assert_eq!(found["digits/2/model.onnx"], "two");
    assert_eq!(found.len(), 2);
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_named() {
    let (_folder, settings) = cache();
    for (url, why) in [
        ("ftp://host/models", ""),
        ("file:///nowhere/at/all", "Object at location nowhere/at/all not found: nothing lies"),
    ] {
        let location: Location = url.parse().unwrap();
        let error = location.fetch(&[], &settings).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read {url}: {why}")), "{error}");
    }
    assert!("http://[".parse::<Location>().is_err());
}

#[tokio::test]
async fn the_remedy_for_a_store_without_tls_is_named() {
    let (_folder, settings) = cache();
    let location: Location = "http://127.0.0.1:1/models".parse().unwrap();
    let error = location.fetch(&[], &settings).await.unwrap_err().to_string();
    assert!(error.contains("http://127.0.0.1:1/models") && error.contains("allow_http"), "{error}");
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_is_named_with_the_setting() {
    let (_store, url) = store_of_files();
    let (folder, mut settings) = cache();
    // No folder can be made below a file. A full disk has another cause and the same text.
    settings.cache = folder.path().join("file");
    fs::write(&settings.cache, "").unwrap();
    let location: Location = url.parse().unwrap();
    let error = location.fetch(&[], &settings).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot write") && error.contains("--model-cache"), "{error}");
}
