//! The job queue, in the form that RQ (Python's "Redis Queue") has on Redis, so that Python programs can enqueue for
//! pgseal and read its results, and RQ's own tools see its workers. Versions 1.16, 2 and 3 of rq are meant.
//!
//! `rq` is the form alone, without a connection: it takes and gives bytes. Whoever can write to Redis chooses those
//! bytes, and rq executes what it unpickles; here a pickle is data, read within limits, or an error.
//!
//! [`Queue`] is the other half. Each change of state is one script (`lua/`), which sees and leaves everything whole:
//! [`producer`] enqueues and takes back, [`consumer`] takes jobs and says how they ended, [`maintenance`] settles what
//! dead workers left, [`scheduler`] enqueues what is due, [`watch`] waits. Every call may be repeated after an error.
//!
//! Nothing that stands in Redis ends the process: a key of another type, a hash of broken fields and a field of a
//! gigabyte are each refused or passed over. Times in scores are the server's, so that clocks of machines do not matter.

pub mod address;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod job;
pub mod json;
pub mod maintenance;
pub mod payload;
pub mod pickle;
pub mod producer;
pub mod rq;
pub mod scheduler;
mod script;
pub mod value;
pub mod watch;

#[cfg(test)]
mod tests;

pub use address::RedisAddress;
pub use connection::Queue;
pub use error::QueueError;
