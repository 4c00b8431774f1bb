//! The job queue, in the form that RQ (Python's "Redis Queue") has on Redis, so that Python programs can enqueue for
//! pgseal and read its results, and RQ's own tools see its workers. Versions 1.16, 2 and 3 of rq are meant.
//!
//! What stands here is the form alone, without a connection: it takes and gives bytes. Whoever can write to Redis
//! chooses those bytes, and rq executes what it unpickles; here a pickle is data, read within limits, or an error.

pub mod job;
pub mod json;
pub mod payload;
pub mod pickle;
pub mod rq;
pub mod value;

#[cfg(test)]
mod tests;
