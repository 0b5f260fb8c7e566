//! Ports that stay a system's own, also while none of its programs runs.
//!
//! Binding port 0 and letting go of it again is a race: another test, or any outgoing connection, may be given the same port
//! before a program opens it, and again when a killed program is started anew. So ports come from below the range that
//! the kernel gives out, and a locked file marks each as taken, for every test process of this user.

use std::{
    env, fs,
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::getuid;

/// Linux gives out ports from 32768 upwards by itself.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port of this machine's loopback address that nobody else uses; free again when it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    #[expect(dead_code, reason = "held, not used: closing it releases the lock")]
    lock: File,
}

impl Port {
    /// Finds one.
    ///
    /// # Panics
    /// When there is none.
    pub fn reserve() -> Self {
        let folder = env::temp_dir().join(format!("pulse-testkit-ports-{}", getuid().as_raw()));
        fs::create_dir_all(&folder).expect("a folder for locks can be made");
        // Test processes begin at different places, so that they rarely try the same port.
        let begin = process::id().wrapping_mul(61);
        for _ in 0..COUNT {
            let step = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let number = FIRST + u16::try_from(step % u32::from(COUNT)).expect("it is less than COUNT");
            let lock = File::create(folder.join(number.to_string())).expect("a lock file can be made");
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, lock };
            }
        }
        panic!("no free port from {FIRST} to {}", FIRST + COUNT);
    }

    /// Its loopback address.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}
