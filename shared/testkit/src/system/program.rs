//! One of the project's programs, running.

use std::{
    collections::BTreeMap,
    env, fs,
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::eventually;

/// How long a program may take to end: longer than the grace that it gives to what is in flight.
const STOP: Duration = Duration::from_secs(40);

/// How much of a log a failed test shows.
const SHOWN_LINES: usize = 150;

/// A program of this workspace, with the settings it is started with and the log it writes.
///
/// It sees no environment but the settings given here, and it runs in a folder of its own.
#[derive(Debug)]
pub struct Program {
    name: String,
    label: String,
    args: Vec<String>,
    settings: BTreeMap<String, String>,
    folder: PathBuf,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Program {
    /// The program of that name, such as `pulse-hosted`, to run in `folder`.
    pub fn new(name: &str, args: &[&str], folder: &Path) -> Self {
        Self::labelled(name, name, args, folder)
    }

    /// One of several in the same folder, which `label` and its log's name tell apart.
    pub fn labelled(label: &str, name: &str, args: &[&str], folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            label: label.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            settings: BTreeMap::new(),
            folder: folder.to_owned(),
            log: folder.join(format!("{label}.log")),
            child: Mutex::default(),
        }
    }

    /// What it is called by: its name, unless there are several of that name.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Sets an environment variable for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    /// Starts it, unless it is running.
    ///
    /// # Panics
    /// When it has not been built or cannot be started.
    pub fn start(&mut self) {
        if self.is_running() {
            return;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log can be written");
        let mut command = self.command();
        command.stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        let child =
            spawn(command).unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.label));
        *self.lock() = Some(child);
    }

    /// Runs it to its end, as a start that is refused comes to one; returns its exit code and what it printed on
    /// standard error.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn run_to_end(&mut self) -> (Option<i32>, String) {
        let errors = self.folder.join(format!("{}.stderr", self.label));
        let mut command = self.command();
        command.stdout(Stdio::null()).stderr(File::create(&errors).expect("a file can be written"));
        *self.lock() = Some(spawn(command).expect("the program can be started"));
        let status = eventually(STOP, async || self.ended()).await;
        (status.code(), fs::read_to_string(errors).expect("what it printed is text"))
    }

    /// Everything that it has printed so far, over all its starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The id of its process, once it was started.
    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Child::id)
    }

    /// Whether it was started and has not ended.
    pub fn is_running(&self) -> bool {
        self.lock().is_some() && self.ended().is_none()
    }

    /// The exit code, once it has ended; the inner `None` is an end by a signal.
    pub fn exit_code(&self) -> Option<Option<i32>> {
        self.ended().map(|status| status.code())
    }

    /// Ends it at once (SIGKILL), and waits until it is gone.
    pub async fn kill(&mut self) {
        self.end(Signal::KILL).await;
    }

    /// Asks it to end (SIGTERM), and waits until it has; returns its exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.end(Signal::TERM).await
    }

    async fn end(&mut self, signal: Signal) -> Option<i32> {
        let pid = self.lock().as_ref().map(Child::id)?;
        if self.ended().is_none() {
            let pid = Pid::from_raw(pid.cast_signed()).expect("a child's id is not 0");
            kill_process(pid, signal).expect("a child can be signalled");
        }
        let status = eventually(STOP, async || self.ended()).await;
        *self.lock() = None;
        status.code()
    }

    fn ended(&self) -> Option<ExitStatus> {
        self.lock().as_mut().and_then(|child| child.try_wait().expect("a child can be waited for"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self) -> Command {
        // Nothing outlives the tests: the kernel ends the program when the process that started it is gone.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(binary(&self.name))
            .args(&self.args)
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .envs(&self.settings)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.lock().take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            #[expect(clippy::print_stderr, reason = "this is how a failed test shows what happened")]
            {
                eprintln!("--- the end of the log of {}\n{}", self.label, shown.join("\n"));
            }
        }
    }
}

/// The built program, found beside the test, or the other program, that is running.
///
/// # Panics
/// When it is not there.
pub(super) fn binary(name: &str) -> PathBuf {
    let own = env::current_exe().expect("a process knows its program");
    // target/<profile>/deps/<test>, or target/<profile>/<program>
    let folder = own.parent().expect("a program is in a folder");
    let profile = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    let binary = profile.expect("tests are in target/<profile>/deps").join(name);
    assert!(
        binary.exists(),
        "{} has not been built; `cargo build --workspace` builds it, `cargo xtask test` does everything",
        binary.display()
    );
    binary
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts children from a thread that lasts as long as the process, because the signal that ends a child with its parent
/// comes when the *thread* that started it ends, and the thread of a test does so early.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (sender, orders) = mpsc::channel::<Order>();
    thread::spawn(move || {
        for (mut command, reply) in orders {
            // Whoever gave the order may have panicked since.
            let _ = reply.send(command.spawn());
        }
    });
    Mutex::new(sender)
});

fn spawn(command: Command) -> io::Result<Child> {
    let (reply, answer) = mpsc::channel();
    let order = (command, reply);
    let spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    spawner.send(order).expect("the spawner lasts as long as the process");
    answer.recv().expect("the spawner answers every order")
}
