//! What every program here does around its actual work: read settings, tell how it is doing, stop in order.
//!
//! | module | holds |
//! |---|---|
//! | [`settings`] | flags and environment as one thing, errors that name the setting, the strict checks of a start |
//! | [`telemetry`] | logs, traces, and the metrics behind `/metrics` |
//! | [`shutdown`] | [`Shutdown`]: drain, then abort; tasks and services whose end is noticed |
//! | [`readiness`] | [`Readiness`]: may this process be sent work? |
//! | [`program`] | [`run`]: what surrounds the services of a process, from its first log line to its exit code |

#![warn(missing_docs)]

pub mod program;
pub mod readiness;
pub mod settings;
pub mod shutdown;
pub mod telemetry;

pub use program::{run, run_task};
pub use readiness::Readiness;
pub use settings::{CommonSettings, DatabaseSettings, Endpoints, Service, SettingError, Task};
pub use shutdown::{Failure, Shutdown};
pub use telemetry::Telemetry;
