//! Logs on standard error, as JSON or text.
//!
//! A thread of its own writes the lines, because a pipe that its reader does not empty blocks a
//! write for any length of time, and a full disk or a closed pipe fails it. Lines that cannot be
//! written are lost and counted; the process serves on.

mod repeated;

use std::{
    io::{self, IsTerminal, Write},
    panic::{self, PanicHookInfo},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use parking_lot::Mutex;
use tracing::error;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, filter::FilterExt, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use self::repeated::RepeatedLines;
use crate::{
    InvalidSettings,
    settings::{LogFormat, ProcessSettings},
};

/// Lines that wait for the writer. Further lines are lost, which bounds memory to a few MiB.
const WAITING_LINES: usize = 8192;

/// Flushes the waiting lines when it is dropped.
static WRITER: Mutex<Option<Writer>> = Mutex::new(None);
/// Lines that standard error did not take.
static FAILED: AtomicU64 = AtomicU64::new(0);

struct Writer {
    guard: WorkerGuard,
    dropped: ErrorCounter,
}

/// Starts logging. Must be called once per process.
pub(crate) fn init(settings: &ProcessSettings) -> Result<(), InvalidSettings> {
    // This crate logs the start and stop of servers, so the log lines of `actix_server` are
    // redundant. Clients cause the lines of `actix_http`, as often as they like.
    let filter = EnvFilter::try_new(format!("actix_server=warn,actix_http=off,{}", settings.log))
        .map_err(|error| {
        InvalidSettings::new(format_args!("--log {}: {error}", settings.log))
    })?;
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("logs")
        .finish(StandardError);
    *WRITER.lock() = Some(Writer { guard, dropped: writer.error_counter() });
    let lines = fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_writer(writer);
    let lines = match settings.log_format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => lines.with_target(false).boxed(),
    };
    let lines = lines.with_filter(filter.and(RepeatedLines::default()));
    let started = tracing_subscriber::registry().with(lines).try_init();
    started.map_err(|error| InvalidSettings::new(format_args!("logging: {error}")))?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Logs a panic like every other event: the default hook writes to standard error itself, and blocks
/// where nothing reads it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let text = panic.payload_as_str().unwrap_or("a value that is no text");
    let thread = thread::current();
    error!(thread = thread.name(), location, panic = text, "panicked");
}

/// Waits for about a second at most until the waiting lines are written. Later lines are lost. A
/// process must call this before it exits.
pub fn flush() {
    let writer = WRITER.lock().take();
    drop(writer.map(|writer| writer.guard));
}

/// The number of lines of libraries that were left out since the process started.
pub(crate) fn repeated() -> u64 {
    repeated::left_out()
}

/// The number of lines lost since the process started.
pub(crate) fn lost() -> u64 {
    let dropped = WRITER.lock().as_ref().map_or(0, |writer| writer.dropped.dropped_lines());
    FAILED.load(Ordering::Relaxed) + dropped as u64
}

/// Standard error; counts the lines that it does not take.
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // The writer passes one line at a time.
        if io::stderr().write_all(line).is_err() {
            FAILED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
