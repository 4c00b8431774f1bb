//! Commands to a running worker: JSON on its channel.
//!
//! Garbage there ends rq's own listener. Here whatever is no command is ignored: a channel has no way to answer.

use serde::Deserialize;

use super::names::{ExecutionId, JobId};

/// A command is a word and two ids; more is none.
const COMMAND_BYTES_MAX: usize = 4096;

/// What a worker can be told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum WorkerCommand {
    /// End this job, if it is the one that runs.
    StopJob {
        /// Which.
        job_id: JobId,
    },
    /// End this run of a job, if it is the one that runs; version 3.
    StopExecution {
        /// Which job.
        job_id: JobId,
        /// Which run.
        execution_id: ExecutionId,
    },
    /// Take nothing new, finish, and end.
    Shutdown,
    /// Fail the job that runs.
    KillHorse,
}

impl WorkerCommand {
    /// Reads a message; `None`: no command.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        // serde would also take a list for an object with a tag.
        let object = message.trim_ascii_start().starts_with(b"{");
        if !object || message.len() > COMMAND_BYTES_MAX {
            return None;
        }
        serde_json::from_slice(message).ok()
    }

    /// The message as rq writes it.
    #[must_use]
    pub fn to_json(&self) -> String {
        // No id has a character that JSON would escape.
        match self {
            Self::StopJob { job_id } => {
                format!(r#"{{"command": "stop-job", "job_id": "{job_id}"}}"#)
            }
            Self::StopExecution {
                job_id,
                execution_id,
            } => format!(
                r#"{{"command": "stop-execution", "job_id": "{job_id}", "execution_id": "{execution_id}"}}"#
            ),
            Self::Shutdown => r#"{"command": "shutdown"}"#.to_owned(),
            Self::KillHorse => r#"{"command": "kill-horse"}"#.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_as_recorded() {
        let job_id = JobId::parse("job-stop").unwrap();
        let stop = WorkerCommand::StopJob {
            job_id: job_id.clone(),
        };
        assert_eq!(
            stop.to_json(),
            r#"{"command": "stop-job", "job_id": "job-stop"}"#
        );
        let execution = WorkerCommand::StopExecution {
            job_id,
            execution_id: ExecutionId::from_random([1; 16]),
        };
        for command in [
            stop,
            execution,
            WorkerCommand::Shutdown,
            WorkerCommand::KillHorse,
        ] {
            let message = command.to_json();
            assert_eq!(WorkerCommand::parse(message.as_bytes()), Some(command));
        }
        // Version 2 and later may add what it likes.
        let more = br#"{"created_at": 1, "command": "shutdown"}"#;
        assert_eq!(WorkerCommand::parse(more), Some(WorkerCommand::Shutdown));
    }

    #[test]
    fn everything_else_is_ignored() {
        let long = format!(r#"{{"command": "shutdown", "x": "{}"}}"#, "x".repeat(5000));
        let deep = "[".repeat(4000);
        for message in [
            "",
            "shutdown",
            "{}",
            "[]",
            r#"["shutdown"]"#,
            "null",
            r#""shutdown""#,
            r#"{"command": "dance"}"#,
            r#"{"command": 1}"#,
            r#"{"command": "stop-job"}"#,
            r#"{"command": "stop-job", "job_id": 7}"#,
            r#"{"command": "stop-job", "job_id": "a:b"}"#,
            r#"{"command": "stop-execution", "job_id": "a"}"#,
            &long,
            &deep,
        ] {
            assert_eq!(WorkerCommand::parse(message.as_bytes()), None, "{message}");
        }
        assert_eq!(WorkerCommand::parse(b"\xff\x00"), None);
    }
}
