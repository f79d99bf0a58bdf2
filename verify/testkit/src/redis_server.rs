//! A real redis-server for one test, or a sentinel for such a server.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

/// Timeout of a server's start, long enough for a busy machine.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Ports to try: another process may bind a free port before the server does.
const PORTS_TO_TRY: usize = 5;

/// A shell script that runs redis-server, and kills the server when standard input closes. The test
/// holds the other end of the pipe, which also closes when the test itself is killed, so that no
/// server outlives its test.
const GUARD: &str = r#"
    command -v "$0" >/dev/null || exit 127
    exec 3<&0
    "$0" "$@" & server=$!
    (read -r _ <&3; kill -9 $server) & watch=$!
    wait $server; status=$?
    kill $watch
    exit $status"#;

/// The name of the server's configuration file. Sentinels rewrite their file.
const SETTINGS: &str = "redis.conf";

/// The guard's exit status if redis-server is not installed.
const MISSING: i32 = 127;

/// A redis-server without persistence on a free port, killed on drop.
pub struct RedisServer {
    child: Child,
    address: SocketAddr,
    options: Vec<String>,
    directory: TempDir,
}

impl RedisServer {
    /// Starts a server, and waits until it answers.
    ///
    /// # Panics
    /// If redis-server is not installed, or does not start.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with additional options, such as `["--maxmemory", "2mb"]`.
    ///
    /// # Panics
    /// If redis-server is not installed, or does not start.
    #[expect(clippy::panic, reason = "a test cannot go on without its server")]
    pub async fn start_with(options: &[&str]) -> Self {
        match Self::try_start("", options).await {
            Ok(server) => server,
            Err(error) => panic!("no redis-server for this test: {error:#}"),
        }
    }

    /// Starts a sentinel for the master at this address, named `main`. The quorum is one sentinel,
    /// and the master counts as down after half a second without an answer.
    ///
    /// # Panics
    /// If redis-server is not installed, or does not start.
    #[expect(clippy::panic, reason = "a test cannot go on without its server")]
    pub async fn start_sentinel(master: SocketAddr, options: &[&str]) -> Self {
        let settings = format!(
            "sentinel monitor main {} {} 1\n\
             sentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 2000\n",
            master.ip(),
            master.port(),
        );
        let start = async {
            let sentinel = Self::try_start(&settings, &[&["--sentinel"], options].concat()).await?;
            // A sentinel promotes only replicas whose state it has read, by default every 10 s.
            sentinel.ask("SENTINEL DEBUG INFO-PERIOD 100").await?;
            Ok::<_, anyhow::Error>(sentinel)
        };
        match start.await {
            Ok(sentinel) => sentinel,
            Err(error) => panic!("no sentinel for this test: {error:#}"),
        }
    }

    pub(crate) async fn try_start(settings: &str, options: &[&str]) -> Result<Self> {
        let directory = TempDir::with_prefix("redis-")?;
        fs::write(directory.path().join(SETTINGS), settings)?;
        let options: Vec<_> = options.iter().copied().map(String::from).collect();
        let mut last = None;
        for _ in 0..PORTS_TO_TRY {
            let address = free_address().await?;
            match launch(address, &directory, &options).await {
                Ok(child) => return Ok(Self { child, address, options, directory }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no port tried")?)
    }

    /// The URL of the server.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The address of the plain port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A number from the server's `INFO`, such as `process_id`.
    ///
    /// # Errors
    /// If the server does not answer, or `INFO` has no such number.
    pub async fn info(&self, field: &str) -> Result<u64> {
        Ok(field_of(&self.ask("INFO").await?, field)?.parse()?)
    }

    /// Sends a command. Returns the answer in the Redis protocol's encoding.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn ask(&self, command: &str) -> Result<String> {
        ask(self.address, command).await
    }

    /// Kills the server, as `kill -9` does. All data is lost.
    pub fn kill(&mut self) {
        end(&mut self.child);
    }

    /// Kills the server if it still runs, and starts it again, empty, on the same port.
    ///
    /// # Panics
    /// If the server does not start.
    #[expect(clippy::panic, reason = "a test cannot go on without its server")]
    pub async fn restart(&mut self) {
        self.kill();
        match launch(self.address, &self.directory, &self.options).await {
            Ok(child) => self.child = child,
            Err(error) => panic!("redis-server did not come back: {error:#}"),
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address on which no process listens at present.
pub(crate) async fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?)
}

/// Starts a server, and waits until the server itself, not another process, answers at `address`.
async fn launch(address: SocketAddr, directory: &TempDir, options: &[String]) -> Result<Child> {
    let mut child = Command::new("sh")
        .args(["-c", GUARD, "redis-server"])
        .arg(directory.path().join(SETTINGS))
        .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--logfile", "redis.log", "--dir"])
        .arg(directory.path())
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let answered = wait_until_it_answers(&mut child, address, directory).await;
    if answered.is_err() {
        end(&mut child);
    }
    answered.map(|()| child).map_err(|error| {
        match std::fs::read_to_string(directory.path().join("redis.log")) {
            Ok(log) => error.context(log),
            Err(_never_ran) => error,
        }
    })
}

/// Makes the guard kill its server, and waits for the end of both.
fn end(guard: &mut Child) {
    // `wait` closes the guard's standard input first, and fails only after an earlier `wait`.
    drop(guard.wait());
}

async fn wait_until_it_answers(
    guard: &mut Child,
    address: SocketAddr,
    directory: &TempDir,
) -> Result<()> {
    let ours = directory.path().join(SETTINGS);
    let until = Instant::now() + START_LIMIT;
    loop {
        match guard.try_wait()? {
            None => {}
            Some(status) if status.code() == Some(MISSING) => {
                bail!("redis-server is not installed: apt-get install redis-server")
            }
            Some(status) => bail!("redis-server exited with {status}"),
        }
        // Another server may have bound the port first. The path of the configuration file
        // identifies ours.
        if let Ok(Ok(info)) = timeout(Duration::from_secs(1), ask(address, "INFO")).await
            && field_of(&info, "config_file").is_ok_and(|theirs| Path::new(theirs) == ours)
        {
            return Ok(());
        }
        ensure!(Instant::now() < until, "redis-server did not answer within {START_LIMIT:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A field of an answer to `INFO`.
fn field_of<'a>(info: &'a str, field: &str) -> Result<&'a str> {
    let mut values = info.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    values.next().with_context(|| format!("no {field} in INFO"))
}

/// Sends `PING` and a command. Returns both answers.
async fn ask(address: SocketAddr, command: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("PING\r\n{command}\r\n").as_bytes()).await?;
    // The server answers, then closes the connection. A sentinel does not know `QUIT`.
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("+PONG"), "not ready yet");
    Ok(answer)
}
