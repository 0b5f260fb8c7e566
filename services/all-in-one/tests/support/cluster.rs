//! A PostgreSQL server as the operators' page has it: made by Debian's package, with TLS, on a machine with `sudo`.
//!
//! The page's commands run as they are printed. What stands in is `sudo` and `pg_ctlcluster`, in front of the path, and the names that the
//! page leaves to the reader.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use pulse_testkit::ports::Port;
use tempfile::TempDir;

/// As whoever PostgreSQL's programs accept, with nothing of the caller's environment; root gives itself up, others stay who they are.
const SUDO: &str = r#"#!/bin/sh
[ "$1" = -u ] || exec "$@"
shift 2
cd /
[ "$(id -u)" = 0 ] && as_postgres="setpriv --reuid postgres --regid postgres --init-groups --"
exec env -i PATH="$PATH" LC_ALL=C.UTF-8 PGHOST="$SOCKETS" PGPORT="$PGPORT" PGUSER=postgres $as_postgres "$@"
"#;

/// `pg_ctlcluster VERSION NAME ACTION`, for the clusters `main` and `standby`.
const PG_CTLCLUSTER: &str = r#"#!/bin/sh
port=$PGPORT
[ "$2" = standby ] && port=$STANDBY_PORT
exec sudo -u postgres pg_ctl --pgdata="$ROOT/$2" --log="$ROOT/$2.log" --silent --wait \
    --options="-p $port -k $SOCKETS" --mode=fast "$3"
"#;

/// A server with a certificate for `localhost`, from an authority of its own.
const MAKE: &str = r#"
cd "$ROOT"
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj "/CN=An authority" \
    -addext "basicConstraints=critical,CA:TRUE"
openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj "/CN=localhost"
echo "subjectAltName=DNS:localhost" > names
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt
chmod 600 server.key
[ "$(id -u)" != 0 ] || chown -R postgres: "$ROOT"
# The administrator comes through the socket, as on a machine of one's own; all others with TLS and a password.
sudo -u postgres initdb --pgdata="$ROOT/main" --auth-local=trust --auth-host=reject --encoding=UTF8 --locale=C.UTF-8
cat > settings <<CONF
ssl = on
ssl_cert_file = '$ROOT/server.crt'
ssl_key_file = '$ROOT/server.key'
fsync = off
CONF
cat settings >> main/postgresql.conf
echo "hostssl  pulse,pulse_copy  $LOGINS  127.0.0.1/8  scram-sha-256" > main/pg_hba.new
echo "hostssl  pulse,pulse_copy  $LOGINS  ::1/128  scram-sha-256" >> main/pg_hba.new
cat main/pg_hba.conf >> main/pg_hba.new
cat main/pg_hba.new > main/pg_hba.conf
sudo pg_ctlcluster 15 main start
"#;

/// The machine.
pub(crate) struct Cluster {
    folder: TempDir,
    ports: [Port; 2],
}

impl Cluster {
    /// Makes the server and starts it. `logins` is who may come by network, as the page has it for `pg_hba.conf`.
    pub(crate) fn start(logins: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let cluster = Self { folder, ports: [Port::reserve(), Port::reserve()] };
        for name in ["bin", "root", "work"] {
            fs::create_dir(cluster.path(name)).unwrap();
        }
        for (name, text) in [("sudo", SUDO), ("pg_ctlcluster", PG_CTLCLUSTER)] {
            let file = cluster.path("bin").join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        cluster.run(&format!("LOGINS='{logins}'\n{MAKE}"));
        cluster
    }

    /// A folder or file of it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the server listens, and where its standby does.
    pub(crate) fn ports(&self) -> [u16; 2] {
        self.ports.each_ref().map(|port| port.addr().port())
    }

    /// Runs a shell script that must succeed, at the administrator's, and returns what it printed.
    pub(crate) fn run(&self, script: &str) -> String {
        let Output { status, stdout, stderr } = self.shell(script);
        let (printed, said) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{script}\n--- printed\n{printed}\n--- said\n{said}");
        printed.into_owned()
    }

    fn shell(&self, script: &str) -> Output {
        let [port, standby_port] = self.ports();
        let root = self.path("root");
        let programs = Path::new(env!("CARGO_BIN_EXE_pulse-hosted")).parent().unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = format!(
            "{}:{}:{}:{}",
            self.path("bin").display(),
            programs.display(),
            postgres(),
            path.display()
        );
        // Of a pipe that a server holds open, nobody would see the end.
        let [stdout, stderr] = ["stdout", "stderr"].map(|name| self.path(name));
        let script = format!("set -eu\n{script}");
        let status = Command::new("bash")
            .args(["-c", &script])
            .current_dir(self.path("work"))
            .env_clear()
            .envs([("PATH", path.as_str()), ("LC_ALL", "C.UTF-8"), ("PGUSER", "postgres")])
            .envs([("PGHOST", &root), ("SOCKETS", &root), ("ROOT", &root)])
            .env("PGPORT", port.to_string())
            .env("STANDBY_PORT", standby_port.to_string())
            .stdin(std::process::Stdio::null())
            .stdout(fs::File::create(&stdout).unwrap())
            .stderr(fs::File::create(&stderr).unwrap())
            .status()
            .unwrap();
        Output { status, stdout: fs::read(stdout).unwrap(), stderr: fs::read(stderr).unwrap() }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for name in ["main", "standby"] {
            // The second may never have been there.
            let stop = r#"exec sudo -u postgres pg_ctl --pgdata="$ROOT/NAME" --mode=immediate stop"#;
            let _ = self.shell(&stop.replace("NAME", name));
        }
    }
}

/// Where the server's programs are; Debian has them in a folder of their own.
fn postgres() -> String {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = versions.map(|version| version.path().join("bin"));
    let newest = folders.filter(|folder| folder.join("postgres").exists()).max();
    newest.map(|folder| folder.display().to_string()).unwrap_or_default()
}
