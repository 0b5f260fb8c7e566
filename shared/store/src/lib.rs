//! What the services' stores are made of. A store is a trait of the service that owns the data; this crate
//! holds only what they have in common.
//!
//! | module | holds |
//! |---|---|
//! | [`sqlite`] | [`SqliteDb`]: one embedded database file, many readers, one writer with group commit |
//! | [`postgres`] | [`PgDb`]: one service's schema in a database that replicas share, one tenant at a time |
//! | [`error`] | [`StoreError`], and [`classify`]: what an SQL error means, whatever the backend |
//! | [`audit`] | the audit chain: sealing, verification, and its storage in memory, SQLite and PostgreSQL |
//! | [`transfer`] | moving what an embedded store holds into PostgreSQL |
//! | [`time`] | how instants are stored: whole microseconds, UTC |

#![warn(missing_docs)]

pub mod audit;
pub mod error;
pub mod postgres;
pub mod sqlite;
pub mod time;
pub mod transfer;

pub use error::{SqlErrorClass, StoreError, classify};
pub use postgres::{PgDb, PgOpenError};
pub use sqlite::{OpenError, SqliteDb};
