//! Ctrl-C and SIGTERM: the first asks the work to end and waits until it has cleaned up, the second does not wait. A
//! service has one more step in between.

use std::pin::pin;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::ExitStatus;
use crate::progress::Progress;
use crate::telemetry::Format;

/// Does the work, and ends it when a signal asks for that.
pub(super) async fn until_done(
    work: impl Future<Output = anyhow::Result<()>>,
    cancel: &CancellationToken,
    progress: &Progress,
    format: Format,
) -> ExitStatus {
    let (Ok(interrupt), Ok(terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        // Without handlers a signal ends the process at once, which loses nothing that was committed.
        return ExitStatus::of(&work.await, format);
    };
    let mut signals = Signals {
        interrupt,
        terminate,
    };
    let mut work = pin!(work);
    let first = tokio::select! {
        done = &mut work => return ExitStatus::of(&done, format),
        first = signals.next() => first,
    };
    cancel.cancel();
    let second = async {
        let second = signals.next().await;
        progress.until_leavable().await;
        second
    };
    tokio::select! {
        // Work that was past its point of no return ends as what it is.
        done = &mut work => if super::exit::was_interrupted(&done, format) { first } else { ExitStatus::of(&done, format) },
        second = second => second,
    }
}

/// Runs a service that ends in order when it is told to: each signal is one request, and the third waits for nothing.
/// To have ended when it was told to is no failure.
pub(super) async fn until_stopped(
    work: impl Future<Output = anyhow::Result<()>>,
    request: impl Fn(),
    format: Format,
) -> ExitStatus {
    let (Ok(interrupt), Ok(terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return ExitStatus::of(&work.await, format);
    };
    let mut signals = Signals {
        interrupt,
        terminate,
    };
    let mut work = pin!(work);
    for _ in 0..2 {
        tokio::select! {
            done = &mut work => return ExitStatus::of(&done, format),
            told = signals.next() => {
                let signal = match told {
                    ExitStatus::Interrupted => "SIGINT",
                    _ => "SIGTERM",
                };
                tracing::info!(signal, "Told to end");
                request();
            }
        }
    }
    tokio::select! {
        done = &mut work => ExitStatus::of(&done, format),
        third = signals.next() => third,
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    async fn next(&mut self) -> ExitStatus {
        tokio::select! {
            _ = self.interrupt.recv() => ExitStatus::Interrupted,
            _ = self.terminate.recv() => ExitStatus::Terminated,
        }
    }
}
