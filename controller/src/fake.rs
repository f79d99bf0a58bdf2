//! An API server for tests: it keeps objects, counts versions and generations, merges what is
//! applied, and refuses what it is told to.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// Clones are the same server.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    writes: Vec<String>,
    refused: BTreeMap<String, u16>,
}

impl FakeApi {
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "ml")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Refuses every request whose path has this in it, until told otherwise by status 0.
    pub(crate) fn refuse(&self, part: &str, status: u16) {
        self.state().refused.insert(part.to_owned(), status);
    }

    /// What was written since it was asked last, as `PATCH deployments/digits`.
    pub(crate) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().writes)
    }

    /// The object whose path ends like this.
    pub(crate) fn get(&self, end: &str) -> Value {
        let state = self.state();
        let found = state.objects.iter().find(|(path, _)| path.ends_with(end));
        found.map_or(Value::Null, |(_, object)| object.clone())
    }

    /// Changes an object, as others do.
    pub(crate) fn edit(&self, end: &str, edit: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let found = state.objects.iter_mut().find(|(path, _)| path.ends_with(end));
        edit(found.unwrap().1);
    }

    /// Adds an object under its path.
    pub(crate) fn add(&self, path: &str, object: Value) {
        self.state().objects.insert(path.to_owned(), object);
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (status, answer) = self.state().answer(&head.method, head.uri.path(), body);
        Response::builder()
            .status(status)
            .body(Body::from(serde_json::to_vec(&answer).unwrap()))
            .unwrap()
    }
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        let refused =
            self.refused.iter().find(|(part, status)| path.contains(*part) && **status > 0);
        if let Some((_, status)) = refused {
            return refusal(*status);
        }
        let (path, subresource) = match path.rsplit_once('/') {
            Some((object, last @ ("status" | "scale"))) => (object, Some(last)),
            _ => (path, None),
        };
        if *method == Method::GET {
            return self.read(path);
        }
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let path = if *method == Method::POST { format!("{path}/{name}") } else { path.to_owned() };
        let short: Vec<&str> = path.rsplit('/').take(2).collect();
        let (standing, kind) = (self.objects.get(&path).cloned(), short[1]);
        if kind != "events" && kind != "leases" {
            let suffix = subresource.map_or_else(String::new, |last| format!("/{last}"));
            self.writes.push(format!("{method} {kind}/{}{suffix}", short[0]));
        }
        match (method.as_str(), standing) {
            ("POST", Some(_)) => refusal(409),
            ("DELETE" | "PATCH", None) if *method == Method::DELETE || subresource.is_some() => {
                refusal(404)
            }
            ("DELETE", Some(object)) => {
                self.objects.remove(&path);
                (StatusCode::OK, object)
            }
            ("PUT", Some(standing))
                if standing["metadata"]["resourceVersion"]
                    != body["metadata"]["resourceVersion"] =>
            {
                refusal(409)
            }
            ("PATCH", Some(mut object)) => {
                merge(&mut object, body);
                let (status, mut stored) = self.store(path, object);
                if subresource == Some("scale") {
                    stored["apiVersion"] = json!("autoscaling/v1");
                    stored["kind"] = json!("Scale");
                }
                (status, stored)
            }
            _ => self.store(path, body),
        }
    }

    fn read(&self, path: &str) -> (StatusCode, Value) {
        if let Some(object) = self.objects.get(path) {
            return (StatusCode::OK, object.clone());
        }
        if path
            .rsplit('/')
            .next()
            .is_some_and(|last| last.ends_with('s') && path.ends_with(&format!("ml/{last}")))
        {
            let inside = self.objects.iter().filter(|(at, _)| at.starts_with(&format!("{path}/")));
            let items: Vec<&Value> = inside.map(|(_, object)| object).collect();
            return (StatusCode::OK, json!({"metadata": {}, "items": items}));
        }
        refusal(404)
    }

    fn store(&mut self, path: String, mut object: Value) -> (StatusCode, Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path, object.clone());
        (StatusCode::OK, object)
    }
}

fn merge(object: &mut Value, patch: Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    object.remove(&name);
                } else {
                    merge(object.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (object, patch) => *object = patch,
    }
}

fn refusal(code: u16) -> (StatusCode, Value) {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "refused by the test", "reason": reason, "code": code,
    });
    (StatusCode::from_u16(code).unwrap(), status)
}
