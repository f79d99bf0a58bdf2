//! A fake API server for tests. The server stores versioned objects, merges patches, sends watch
//! events, and refuses the requests that a test selects.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// API groups that are not installed until a test adds the path of the group.
const OPTIONAL_GROUPS: [&str; 2] = ["/apis/keda.sh/v1alpha1", "/apis/monitoring.coreos.com/v1"];

/// The fake API server. Clones share one state.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<FakeState>>);

#[derive(Default)]
struct FakeState {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Every change: version, path of the object, and watch event.
    changes: Vec<(u64, String, Value)>,
    watches: Vec<OpenWatch>,
    /// Watch events that a test holds back; `None` if events are sent immediately.
    held: Option<Vec<(String, Value)>>,
    requests: Vec<String>,
    writes: Vec<String>,
    /// Status of refused requests by part of the path; 0 if the refusal has ended.
    refused: BTreeMap<String, u16>,
    webhook: Option<Webhook>,
}

/// An admission webhook, which changes each write of one object.
struct Webhook {
    /// End of the path of the object.
    end: String,
    change: fn(&mut Value),
}

struct OpenWatch {
    path: String,
    events: UnboundedSender<Bytes>,
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

    fn state(&self) -> MutexGuard<'_, FakeState> {
        self.0.lock().unwrap()
    }

    /// Refuses every request with `part` in its path, and ends the open watches of these paths. A part
    /// that ends with `$` must be the end of the path. Status 0 ends the refusal.
    pub(crate) fn refuse(&self, part: &str, status: u16) {
        let mut state = self.state();
        state.refused.insert(part.to_owned(), status);
        state.watches.retain(|watch| !watch.path.contains(part));
    }

    /// Changes every write of the object whose path ends with `end`, as an admission webhook does.
    pub(crate) fn admit(&self, end: &str, change: fn(&mut Value)) {
        self.state().webhook = Some(Webhook { end: end.to_owned(), change });
    }

    /// Holds back all watch events until `release_events`, like a slow network.
    pub(crate) fn hold_events(&self) {
        self.state().held.get_or_insert_default();
    }

    pub(crate) fn release_events(&self) {
        let mut state = self.state();
        for (path, event) in state.held.take().unwrap_or_default() {
            state.send(&path, &event);
        }
    }

    /// Returns the writes since the last call, such as `PATCH deployments/digits`.
    pub(crate) fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().writes)
    }

    /// Returns all requests since the last call, such as `GET /api/v1/namespaces/ml/pods`.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests)
    }

    /// Returns every event so far, as `REASON: NOTE`.
    pub(crate) fn events(&self) -> Vec<String> {
        let state = self.state();
        let events = state.objects.iter().filter(|(path, _)| path.contains("/events/"));
        let mut events: Vec<_> = events.map(|(_, event)| event.clone()).collect();
        events.sort_by_key(|event| event["eventTime"].as_str().unwrap_or_default().to_owned());
        let text =
            |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        events.iter().map(|it| format!("{}: {}", text(it, "reason"), text(it, "note"))).collect()
    }

    /// Returns the object whose path ends with `end`.
    pub(crate) fn get(&self, end: &str) -> Value {
        let state = self.state();
        let found = state.objects.iter().find(|(path, _)| path.ends_with(end));
        found.map_or(Value::Null, |(_, object)| object.clone())
    }

    /// Changes an object, as another client would.
    pub(crate) fn edit(&self, end: &str, edit: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let found = state.objects.iter().find(|(path, _)| path.ends_with(end));
        let (path, mut object) =
            found.map(|(path, object)| (path.clone(), object.clone())).unwrap();
        edit(&mut object);
        if state.objects[&path] != object {
            state.store(path, object);
        }
    }

    /// Deletes an object, as another client would.
    pub(crate) fn remove(&self, path: &str) {
        let mut state = self.state();
        let object = state.objects[path].clone();
        state.delete(path, object);
    }

    /// Adds an object under its path, as another client would.
    pub(crate) fn add(&self, path: &str, object: Value) {
        self.state().store(path.to_owned(), object);
    }

    async fn answer(&self, request: Request<Body>) -> Response<ResponseBody> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        let mut state = self.state();
        state.requests.push(format!("{} {path}", head.method));
        if query.contains("watch=true")
            && let Ok(events) = state.watch(path, query)
        {
            let body = stream::unfold(events, async |mut events| {
                events.recv().await.map(|event| (Ok(Frame::data(event)), events))
            });
            return Response::new(StreamBody::new(body.boxed()).boxed_unsync());
        }
        let (status, answer) = state.answer(&head.method, path, body);
        let body = Full::from(serde_json::to_vec(&answer).unwrap()).boxed_unsync();
        Response::builder().status(status).body(body).unwrap()
    }
}

impl FakeState {
    /// Opens a watch, which starts with the first change after the version in the query.
    fn watch(&mut self, path: &str, query: &str) -> Result<UnboundedReceiver<Bytes>, u16> {
        self.allow(path)?;
        let version = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
        let version: u64 = version.unwrap().parse().unwrap();
        let watch_path = format!("{path}/");
        let (events, receiver) = unbounded_channel();
        let missed = self.changes.iter().filter(|(at, ..)| *at > version);
        for (_, _, event) in missed.filter(|(_, at, _)| is_child(at, &watch_path)) {
            events.send(line(event)).unwrap();
        }
        self.watches.push(OpenWatch { path: watch_path, events });
        Ok(receiver)
    }

    /// Returns an error if the test refuses this path or has not installed its API group.
    fn allow(&self, path: &str) -> Result<(), u16> {
        let matches = |part: &str| match part.strip_suffix('$') {
            Some(end) => path.ends_with(end),
            None => path.contains(part),
        };
        let refused = self.refused.iter().find(|(part, status)| matches(part) && **status > 0);
        if let Some((_, status)) = refused {
            return Err(*status);
        }
        let group = OPTIONAL_GROUPS.iter().find(|group| path.starts_with(**group));
        let is_installed = group.is_none_or(|group| self.objects.contains_key(*group));
        if is_installed { Ok(()) } else { Err(404) }
    }

    fn answer(&mut self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        if let Err(status) = self.allow(path) {
            return refusal(status);
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
        let (current, kind) = (self.objects.get(&path).cloned(), short[1]);
        // Tests do not check the writes of events and leases.
        if kind != "events" && kind != "leases" {
            let suffix = subresource.map_or_else(String::new, |last| format!("/{last}"));
            self.writes.push(format!("{method} {kind}/{}{suffix}", short[0]));
        }
        if !is_same(current.as_ref(), &body) {
            return refusal(409);
        }
        match (method.as_str(), current) {
            ("POST", Some(_)) => refusal(409),
            ("DELETE" | "PATCH", None) if *method == Method::DELETE || subresource.is_some() => {
                refusal(404)
            }
            ("DELETE", Some(object)) => (StatusCode::OK, self.delete(&path, object)),
            ("PUT", Some(current))
                if current["metadata"]["resourceVersion"]
                    != body["metadata"]["resourceVersion"] =>
            {
                refusal(409)
            }
            ("PATCH", Some(mut object)) => {
                merge(&mut object, body);
                let mut stored = self.store(path, object);
                if subresource == Some("scale") {
                    stored["apiVersion"] = json!("autoscaling/v1");
                    stored["kind"] = json!("Scale");
                }
                (StatusCode::OK, stored)
            }
            _ => (StatusCode::OK, self.store(path, body)),
        }
    }

    fn read(&self, path: &str) -> (StatusCode, Value) {
        if let Some(object) = self.objects.get(path) {
            return (StatusCode::OK, object.clone());
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        // A list of all objects of one kind in the namespace `ml`, or of all namespaces.
        let is_list = last.ends_with('s') && path.ends_with(&format!("ml/{last}"));
        if is_list || path == "/api/v1/namespaces" {
            let inside = self.objects.iter().filter(|(at, _)| is_child(at, &format!("{path}/")));
            let items: Vec<&Value> = inside.map(|(_, object)| object).collect();
            let metadata = json!({"resourceVersion": self.version.to_string()});
            return (StatusCode::OK, json!({"metadata": metadata, "items": items}));
        }
        refusal(404)
    }

    fn store(&mut self, path: String, mut object: Value) -> Value {
        self.version += 1;
        if let Some(webhook) = self.webhook.as_ref().filter(|it| path.ends_with(&it.end)) {
            (webhook.change)(&mut object);
        }
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        let kind = if self.objects.contains_key(&path) { "MODIFIED" } else { "ADDED" };
        self.objects.insert(path.clone(), object.clone());
        self.announce(path, kind, &object);
        object
    }

    fn delete(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.remove(path);
        self.announce(path.to_owned(), "DELETED", &object);
        object
    }

    fn announce(&mut self, path: String, kind: &str, object: &Value) {
        let event = json!({"type": kind, "object": object});
        if let Some(held) = &mut self.held {
            held.push((path.clone(), event.clone()));
        } else {
            self.send(&path, &event);
        }
        self.changes.push((self.version, path, event));
    }

    fn send(&self, path: &str, event: &Value) {
        for watch in self.watches.iter().filter(|watch| is_child(path, &watch.path)) {
            // The client may have closed the watch.
            watch.events.send(line(event)).ok();
        }
    }
}

/// Returns whether an object at `path` is in the collection whose path, with a slash, is `collection`.
fn is_child(path: &str, collection: &str) -> bool {
    path.strip_prefix(collection).is_some_and(|name| !name.contains('/'))
}

/// Returns whether the request (its precondition or its patch) names the uid of the current object
/// or no uid.
fn is_same(current: Option<&Value>, body: &Value) -> bool {
    let named = [&body["preconditions"]["uid"], &body["metadata"]["uid"]];
    let uid = current.map_or(&Value::Null, |current| &current["metadata"]["uid"]);
    named.into_iter().all(|named| named.is_null() || named == uid)
}

/// Formats an event as a line of a watch response.
fn line(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
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
        403 => "Forbidden",
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
