//! A server for tests, and raw connections to it.

use std::{collections::HashMap, fs, time::Duration};

use batchfleet_testkit::{Program, get};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// Timeout of every wait.
const LIMIT: Duration = Duration::from_mins(1);

/// The path of the model that returns its input: `INPUT0`, `UINT8` of shape `[-1, -1]`.
pub(crate) const ECHO: &str = "/v2/models/echo/infer";

pub(crate) const CONFIG: &str = r#"
backend: "batchfleet_echo"
max_batch_size: 256
input [{ name: "INPUT0" data_type: TYPE_UINT8 dims: [ -1 ] }]
output [{ name: "OUTPUT0" data_type: TYPE_UINT8 dims: [ -1 ] }]
"#;

/// `batchfleet serve` with the model `echo`; killed on drop.
pub(crate) struct Server {
    pub(crate) program: Program,
    pub(crate) address: String,
    _repository: TempDir,
}

impl Server {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::with_parameters("", flags).await
    }

    /// Starts a server whose model has these parameters, in the syntax of config.pbtxt.
    pub(crate) async fn with_parameters(parameters: &str, flags: &[&str]) -> Self {
        let repository = TempDir::new().unwrap();
        fs::create_dir_all(repository.path().join("echo/1")).unwrap();
        let config = format!("{CONFIG}{parameters}");
        fs::write(repository.path().join("echo/config.pbtxt"), config).unwrap();
        let models = repository.path().to_str().unwrap();
        let program = Program::at(env!("CARGO_BIN_EXE_batchfleet"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(["--model-repository", models])
            .args(flags.iter().copied())
            .spawn()
            .unwrap();
        let address = program.address("http").await.unwrap();
        Self { program, address, _repository: repository }
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection(BufReader::new(TcpStream::connect(&self.address).await.unwrap()))
    }

    /// Sends a request on a new connection.
    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> RawAnswer {
        let mut connection = self.connect().await;
        connection.send(request).await;
        connection.answer().await
    }

    /// Checks that a correct request is answered.
    pub(crate) async fn serves(&self) {
        assert_eq!(self.ask(post("", echo(&[1, 2, 3]))).await.outputs(), [1, 2, 3]);
    }

    /// The sum of a metric over its series that contain `label`.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let admin = self.program.address("admin").await.unwrap();
        let (_, text) = get(&admin, "/metrics").await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Waits until a metric has this value.
    pub(crate) async fn metric_becomes(&self, name: &str, label: &str, wanted: f64) {
        let reached = async {
            while (self.metric(name, label).await - wanted).abs() > 0.5 {
                tokio::task::yield_now().await;
            }
        };
        let reached = timeout(LIMIT, reached).await;
        assert!(reached.is_ok(), "{name} stays at {}", self.metric(name, label).await);
    }

    /// Checks that offered = accepted + refused, that no request is in flight, and that no body is
    /// held.
    pub(crate) async fn balances(&self) {
        let gateway = |what: &str| format!("batchfleet_gateway_{what}");
        self.metric_becomes(&gateway("body_bytes"), "", 0.0).await;
        self.metric_becomes(&gateway("in_flight"), "", 0.0).await;
        let offered = self.metric(&gateway("offered_total"), "").await;
        let accepted = self.metric(&gateway("accepted_total"), "").await;
        let refused = self.metric(&gateway("refused_total"), "").await;
        assert!((offered - accepted - refused).abs() < 0.5, "{offered} {accepted} {refused}");
    }

    /// The peak memory of the process in bytes.
    pub(crate) fn peak(&self) -> usize {
        let status = format!("/proc/{}/status", self.program.id().unwrap());
        let status = fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }
}

/// A connection to the server.
pub(crate) struct Connection(pub(crate) BufReader<TcpStream>);

impl Connection {
    /// Sends bytes; ignores errors.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The server may already have answered and closed the connection.
        drop(self.0.write_all(bytes.as_ref()).await);
    }

    /// Reads the next answer.
    pub(crate) async fn answer(&mut self) -> RawAnswer {
        timeout(LIMIT, self.read()).await.unwrap()
    }

    async fn read(&mut self) -> RawAnswer {
        let first = self.line().await;
        let status = first.split(' ').nth(1).unwrap_or(&first);
        let mut answer = RawAnswer {
            status: status.parse().unwrap(),
            headers: HashMap::new(),
            body: Vec::new(),
        };
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(": ") else { break };
            answer.headers.insert(name.to_owned(), value.to_owned());
        }
        let length = answer.headers.get("content-length").map_or(0, |text| text.parse().unwrap());
        answer.body = vec![0; length];
        self.0.read_exact(&mut answer.body).await.unwrap();
        answer
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// Waits until the server closes the connection.
    pub(crate) async fn is_closed(&mut self) {
        let mut rest = Vec::new();
        let closed = timeout(LIMIT, self.0.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "still open after {}", String::from_utf8_lossy(&rest));
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl RawAnswer {
    /// The error code.
    pub(crate) fn code(&self) -> &str {
        let code = self.headers.get("x-error-code").map_or("", String::as_str);
        let text = String::from_utf8_lossy(&self.body);
        assert!(text.starts_with(&format!("{{\"error\":\"{code}: ")), "{text}");
        code
    }

    /// The JSON output of the model.
    pub(crate) fn outputs(&self) -> Vec<u64> {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, 200, "{text}");
        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
        let data = body["outputs"][0]["data"].as_array().unwrap();
        data.iter().map(|value| value.as_u64().unwrap()).collect()
    }
}

/// The JSON body of a request to `echo`.
pub(crate) fn echo(data: &[u8]) -> String {
    let shape = data.len();
    format!(
        r#"{{"inputs":[{{"name":"INPUT0","datatype":"UINT8","shape":[1,{shape}],"data":{data:?}}}]}}"#
    )
}

/// A request to `echo` with a content length; each of `headers` ends in CRLF.
pub(crate) fn post(headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    [head(&format!("{headers}content-length: {}\r\n", body.len())).as_bytes(), body].concat()
}

/// The head of a request to `echo`; each of `headers` ends in CRLF.
pub(crate) fn head(headers: &str) -> String {
    format!("POST {ECHO} HTTP/1.1\r\nhost: test\r\n{headers}\r\n")
}

/// A body in chunks of `size` bytes.
pub(crate) fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let chunk =
        |chunk: &[u8]| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
    let mut sent: Vec<u8> = body.chunks(size).flat_map(chunk).collect();
    sent.extend_from_slice(b"0\r\n\r\n");
    sent
}
