//! What a system keeps its data in, besides its folder.

use super::{System, plan::Keep};
use crate::{
    postgres::{Database, Postgres},
    proxy::Proxy,
};

/// Where the data is.
#[derive(Debug)]
pub(super) enum Backend {
    /// Below the system's folder.
    Embedded,
    /// In a database of the server that the tests share.
    Shared(Database),
    /// In a database of a server that this system has to itself.
    Own {
        /// What the programs reach the server through.
        network: Proxy,
        database: Database,
        server: Postgres,
    },
}

impl Backend {
    pub(super) async fn start(keep: Keep) -> Self {
        match keep {
            Keep::Embedded => Self::Embedded,
            Keep::SharedPostgres => Self::Shared(Postgres::shared().await.database().await),
            Keep::OwnPostgres => {
                let server = Postgres::start().await;
                let network = Proxy::to(&[server.addr()]);
                Self::Own { network, database: server.database().await, server }
            }
        }
    }

    /// The URL that the programs are given.
    pub(super) fn url(&self) -> Option<String> {
        match self {
            Self::Embedded => None,
            Self::Shared(database) => Some(database.url()),
            Self::Own { network, database, .. } => Some(database.url_through(network.addr())),
        }
    }

    pub(super) fn database(&self) -> Option<&Database> {
        match self {
            Self::Embedded => None,
            Self::Shared(database) | Self::Own { database, .. } => Some(database),
        }
    }
}

impl System {
    /// The PostgreSQL database that the programs keep their data in, if they do.
    pub fn database(&self) -> Option<&Database> {
        self.backend.database()
    }

    /// This system's own PostgreSQL server, to be stopped, killed and started again.
    ///
    /// # Panics
    /// When it has none.
    pub fn postgres(&mut self) -> &mut Postgres {
        match &mut self.backend {
            Backend::Own { server, .. } => server,
            Backend::Embedded | Backend::Shared(_) => panic!("this system has no server of its own"),
        }
    }

    /// What lies between the programs and this system's own PostgreSQL server, to be cut and frozen.
    ///
    /// # Panics
    /// When it has none.
    pub fn network(&self) -> &Proxy {
        match &self.backend {
            Backend::Own { network, .. } => network,
            Backend::Embedded | Backend::Shared(_) => panic!("this system has no server of its own"),
        }
    }

    /// What the PostgreSQL server has logged about this system's database, details and statements included; nothing with
    /// embedded stores.
    pub async fn database_log(&self) -> String {
        let (log, database) = match &self.backend {
            Backend::Embedded => return String::new(),
            Backend::Shared(database) => (Postgres::shared().await.log(), database),
            Backend::Own { server, database, .. } => (server.log(), database),
        };
        let prefix = format!("{}|", database.name());
        // A line that continues the one before begins with a tab.
        let mut is_ours = false;
        let ours = log.lines().filter(|line| {
            is_ours = line.starts_with(&prefix) || (is_ours && line.starts_with('\t'));
            is_ours
        });
        ours.collect::<Vec<_>>().join("\n")
    }
}
