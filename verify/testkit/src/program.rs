//! Runs this build's programs as processes, and collects the logs for tests.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStderr, Command},
    sync::watch,
    time::timeout,
};

/// Timeout of an awaited log line or exit.
const LIMIT: Duration = Duration::from_secs(30);

/// A program to spawn, with arguments and environment.
#[must_use = "nothing runs before `spawn`"]
pub struct ProgramBuilder {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl ProgramBuilder {
    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts the program, without the test's `BATCHFLEET_*` variables. The program inherits the
    /// standard output of the test.
    ///
    /// # Errors
    /// If the program is missing; the error contains the command that builds it.
    pub fn spawn(self) -> Result<Program> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(
            self.path.exists(),
            "{} is missing: run `cargo build --workspace --bins`",
            self.path.display()
        );
        let mut command = Command::new(&self.path);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("BATCHFLEET_") {
                command.env_remove(variable);
            }
        }
        let mut child = command
            .args(self.arguments)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        let stderr = child.stderr.take().context("no standard error")?;
        let (lines, log) = watch::channel(Vec::new());
        let (reading, follow) = watch::channel(LogReading::Read);
        tokio::spawn(collect(stderr, lines, follow));
        Ok(Program { name, child, log, reading })
    }
}

/// What happens to the lines that a program logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogReading {
    /// They are collected.
    Read,
    /// They stay in the pipe, which fills up. [`Program::wait`] then never ends, but
    /// [`Program::exit`] does.
    Paused,
    /// The pipe is closed.
    Closed,
}

/// A running program; killed on drop.
pub struct Program {
    name: String,
    child: Child,
    log: watch::Receiver<Vec<Value>>,
    reading: watch::Sender<LogReading>,
}

impl Program {
    /// A program of this build, by name.
    ///
    /// # Errors
    /// As [`Program::path`].
    pub fn named(name: &str) -> Result<ProgramBuilder> {
        Ok(Self::at(Self::path(name)?))
    }

    /// The path of a program of this build, derived from the path of the running test in the target
    /// folder.
    ///
    /// # Errors
    /// If the path of the running test is unknown.
    pub fn path(name: &str) -> Result<PathBuf> {
        let test = std::env::current_exe().context("the path of this test is unknown")?;
        // Tests are in `deps`, examples in `examples`, programs in the parent folder of both.
        let directory = test
            .ancestors()
            .skip(1)
            .find(|folder| !folder.ends_with("deps") && !folder.ends_with("examples"))
            .context("the test is not in a target folder")?;
        Ok(directory.join(name))
    }

    /// The program at this path.
    pub fn at(path: impl AsRef<Path>) -> ProgramBuilder {
        ProgramBuilder {
            path: path.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Changes what happens to the lines that the program logs from now on.
    pub fn read_log(&self, reading: LogReading) {
        self.reading.send_replace(reading);
    }

    /// The lines logged so far: JSON objects, or strings for lines that are not JSON, such as a
    /// panic.
    pub fn log(&self) -> Vec<Value> {
        self.log.borrow().clone()
    }

    /// Waits for the first log line that satisfies `predicate`; lines already logged count.
    ///
    /// # Errors
    /// If the program ends, or half a minute passes, without such a line; the error shows the log.
    pub async fn wait_for_log(&self, predicate: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut log = self.log.clone();
        let found = |lines: &Vec<Value>| lines.iter().any(&predicate);
        let waited = match timeout(LIMIT, log.wait_for(found)).await {
            Ok(Ok(lines)) => Ok(lines.iter().find(|line| predicate(line)).cloned()),
            Ok(Err(_)) => Err("ended"),
            Err(_) => Err("did not log the awaited line"),
        };
        match waited {
            Ok(line) => line.context("no line satisfies the predicate any more"),
            Err(why) => bail!("{} {why}; its log:\n{}", self.name, self.print_log()),
        }
    }

    /// The address of one of the program's ports, from its log line
    /// `{"message":"listening","port_name":…,"address":…}`.
    ///
    /// # Errors
    /// As [`wait_for_log`](Self::wait_for_log).
    pub async fn address(&self, port_name: &str) -> Result<String> {
        let line = self
            .wait_for_log(|line| line["message"] == "listening" && line["port_name"] == port_name)
            .await?;
        Ok(line["address"].as_str().context("the address is not a string")?.to_owned())
    }

    /// The process id; `None` after [`wait`](Self::wait) has returned.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal by name: `TERM`, `INT`, `STOP`, `CONT`.
    ///
    /// # Errors
    /// If the program has been waited for, or the signal could not be sent.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let id = self.id().with_context(|| format!("{} has ended", self.name))?;
        let kill = format!("kill -{name} {id}");
        let status = Command::new("sh").args(["-c", &kill]).status().await?;
        ensure!(status.success(), "`{kill}`: {status}");
        Ok(())
    }

    /// Waits until the program exits by itself. Afterwards the log is complete.
    ///
    /// # Errors
    /// If the program does not exit within half a minute; the error shows the log.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let ended = async {
            while self.log.changed().await.is_ok() {}
            self.child.wait().await
        };
        match timeout(LIMIT, ended).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} does not exit; its log:\n{}", self.name, self.print_log()),
        }
    }

    /// Waits until the program exits by itself, whether or not its log is read.
    ///
    /// # Errors
    /// If the program does not exit within half a minute.
    pub async fn exit(&mut self) -> Result<ExitStatus> {
        let status = timeout(LIMIT, self.child.wait()).await;
        Ok(status.with_context(|| format!("{} does not exit", self.name))??)
    }

    /// Sends `SIGTERM`, and waits until the program has exited.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal("TERM").await?;
        self.wait().await
    }

    /// Kills the program (`SIGKILL`).
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    fn print_log(&self) -> String {
        self.log.borrow().iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
    }
}

/// Waits for the next change.
async fn changed(
    reading: &mut watch::Receiver<LogReading>,
) -> Result<LogReading, watch::error::RecvError> {
    reading.changed().await?;
    Ok(*reading.borrow_and_update())
}

/// Collects the lines of a program's standard error until the program closes it.
async fn collect(
    stderr: ChildStderr,
    log: watch::Sender<Vec<Value>>,
    mut reading: watch::Receiver<LogReading>,
) {
    let mut lines = BufReader::new(stderr).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) => line,
                _ => return,
            },
            mode = changed(&mut reading) => match mode {
                Ok(LogReading::Read) => continue,
                Ok(LogReading::Closed) | Err(_) => return,
                // Until the program is dropped.
                Ok(LogReading::Paused) => return drop(reading.wait_for(|_| false).await),
            },
        };
        let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
        log.send_modify(|log| log.push(line));
    }
}
