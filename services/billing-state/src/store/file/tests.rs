//! What only a store of files has: crashes between any two steps, edits by hand, damage.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt as _;
use pulse_entitlements::{BillingState, Stored, SubscriptionState};
use pulse_testkit::{ManualClock, SeededEntropy};

use super::*;
use crate::{
    domain::{
        Document,
        tests::{ask, key, org, set_on, trial_write},
    },
    store::{Event, Purge},
};
use SubscriptionState::{Active, Expired, Suspended};

/// A data directory that outlives the stores on it.
struct Bench {
    data: tempfile::TempDir,
    clock: ManualClock,
}

impl Bench {
    fn new() -> Self {
        Self { data: tempfile::tempdir().unwrap(), clock: ManualClock::default() }
    }

    fn open(&self) -> FileStore {
        self.open_on(Box::new(RealDisk))
    }

    fn open_on(&self, disk: Box<dyn Disk>) -> FileStore {
        let entropy = Arc::new(SeededEntropy::default());
        FileStore::open_on(disk, self.data.path(), Arc::new(self.clock.clone()), entropy).unwrap()
    }

    fn path(&self, file: &str) -> PathBuf {
        self.data.path().join("orgs/acme").join(file)
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap()
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    /// A store with a trial, and what is stored.
    async fn with_trial(&self) -> (FileStore, Stored) {
        let store = self.open();
        let stored = store.put(trial_write("k", 0)).await.unwrap().stored;
        (store, stored)
    }

    fn edit(&self, from: &str, to: &str) {
        let text = self.text("billing.json");
        assert!(text.contains(from), "{text}");
        self.write("billing.json", &text.replacen(from, to, 1));
    }
}

async fn get(store: &FileStore) -> Lookup {
    store.get(&org()).await.unwrap()
}

async fn stored(store: &FileStore) -> Stored {
    match get(store).await {
        Lookup::Stored(stored) => *stored,
        other => panic!("{other:?}"),
    }
}

/// The problem and the last known state of an unreadable file.
fn unreadable<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> (String, Option<Stored>) {
    match outcome {
        Err(error @ StoreError::Unreadable { .. }) => {
            let text = error.to_string();
            let StoreError::Unreadable { last_known, .. } = error else { unreachable!() };
            (text, last_known.map(|stored| *stored))
        }
        other => panic!("{other:?}"),
    }
}

async fn actions(store: &FileStore) -> Vec<String> {
    let records = store.audit(&org(), None, 100).await.unwrap();
    records.into_iter().map(|record| record.action).collect()
}

/// A disk that stops, once, before or in the middle of the step that it was told; and then stays stopped.
#[derive(Debug)]
struct CrashingDisk {
    steps_left: AtomicUsize,
    /// How much of the bytes of the last step still reach the disk, in per cent.
    torn: usize,
}

impl CrashingDisk {
    /// Whether this step happens; at the one where it does not, `torn` happens instead.
    fn step(
        &self,
        torn: impl FnOnce() -> io::Result<()>,
        whole: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        match self.steps_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(1) => torn(),
            Ok(_) => return whole(),
            Err(_) => Ok(()),
        }?;
        Err(io::Error::other("crashed"))
    }

    fn part<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[..bytes.len() * self.torn / 100]
    }
}

impl Disk for CrashingDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step(|| Ok(()), || RealDisk.create_dir(path))
    }
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step(|| RealDisk.write(path, self.part(bytes)), || RealDisk.write(path, bytes))
    }
    fn note(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step(|| RealDisk.note(path, self.part(bytes)), || RealDisk.note(path, bytes))
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step(|| RealDisk.append(path, self.part(bytes)), || RealDisk.append(path, bytes))
    }
    fn cut(&self, path: &Path, length: u64) -> io::Result<()> {
        self.step(|| Ok(()), || RealDisk.cut(path, length))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(|| Ok(()), || RealDisk.rename(from, to))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(|| Ok(()), || RealDisk.remove(path))
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let some = || fs::remove_file(path.join("billing.json"));
        self.step(some, || RealDisk.remove_dir(path))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step(|| Ok(()), || RealDisk.sync_dir(path))
    }
}

/// Runs `work` on a disk that crashes at each of its steps in turn, in three ways, and `check` on what is left each
/// time. The last run is the one that does not crash.
async fn at_every_crash<P: Clone, T>(
    prepare: impl AsyncFn(&Bench) -> P,
    work: impl AsyncFn(&FileStore, P) -> Result<T, StoreError>,
    check: impl AsyncFn(&FileStore, P, Option<T>, &str),
) {
    // The store's own start takes these.
    const OPENING: usize = 4;
    for torn in [0, 50, 100] {
        for steps in 1.. {
            let bench = Bench::new();
            let prepared = prepare(&bench).await;
            let steps_left = AtomicUsize::new(OPENING + steps);
            let crashing = bench.open_on(Box::new(CrashingDisk { steps_left, torn }));
            let outcome = work(&crashing, prepared.clone()).await.ok();
            drop(crashing);
            let survived = outcome.is_some();
            check(&bench.open(), prepared, outcome, &format!("at step {steps}, {torn} % of it done")).await;
            if survived {
                assert!(steps > 3, "there is more to crash in");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_first_write_happens_or_not_wherever_it_crashes() {
    at_every_crash(
        async |_| (),
        async |store, ()| store.put(trial_write("k", 0)).await,
        async |store, (), acknowledged, crash| {
            let trial = Stored { state: trial_write("k", 0).state, revision: 1 };
            match get(store).await {
                Lookup::NotStored => assert!(acknowledged.is_none(), "{crash}"),
                found => assert_eq!(found, Lookup::Stored(Box::new(trial.clone())), "{crash}"),
            }
            // Whatever it was, the next attempt finds its way.
            if get(store).await == Lookup::NotStored {
                store.put(trial_write("k", 0)).await.unwrap();
            }
            assert_eq!(stored(store).await, trial, "{crash}");
            assert_eq!(actions(store).await, ["trial_started"], "{crash}");
            let next = store.put(set_on(&trial.state, &ask(Active), 9)).await.unwrap();
            assert_eq!(stored(store).await, next.stored, "{crash}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_change_happens_or_not_wherever_it_crashes() {
    at_every_crash(
        async |bench| bench.with_trial().await.1,
        async |store, trial| store.put(set_on(&trial.state, &ask(Suspended), 9)).await,
        async |store, trial, acknowledged, crash| {
            let found = stored(store).await;
            let suspended = Stored { state: set_on(&trial.state, &ask(Suspended), 9).state, revision: 2 };
            assert!(found == suspended || (found == trial && acknowledged.is_none()), "{crash}: {found:?}");
            assert_eq!(
                actions(store).await.len() as u64,
                found.revision,
                "no edit by hand is made up, {crash}"
            );
            let next = store.put(set_on(&found.state, &ask(Active), 10)).await.unwrap().stored;
            assert_eq!((stored(store).await, next.revision), (next.clone(), found.revision + 1), "{crash}");
            assert!(actions(store).await.iter().all(|action| !action.contains("hand")), "{crash}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_purge_happens_or_not_wherever_it_crashes() {
    at_every_crash(
        async |bench| bench.with_trial().await.1,
        async |store, _| store.purge(&org(), None).await,
        async |store, trial, acknowledged, crash| {
            match get(store).await {
                Lookup::Stored(found) => assert!(*found == trial && acknowledged.is_none(), "{crash}"),
                Lookup::Purged => {}
                Lookup::NotStored => panic!("neither there nor purged, {crash}"),
            }
            store.purge(&org(), None).await.unwrap();
            assert_eq!(get(store).await, Lookup::Purged, "{crash}");
            assert!(!store.0.place.orgs.join("acme").exists(), "{crash}");
        },
    )
    .await;
}

#[tokio::test]
async fn an_edit_by_hand_is_audited_or_will_be_wherever_it_crashes() {
    at_every_crash(
        async |bench| {
            bench.with_trial().await;
            bench.edit("\"trial\"", "\"active\"");
        },
        async |store, ()| {
            // A crash while auditing it does not keep the edit from taking effect.
            let found = stored(store).await;
            assert_eq!(found.state.subscription_state, Active);
            store.put(set_on(&found.state, &ask(Expired), 9)).await
        },
        async |store, (), _, crash| {
            stored(store).await;
            let actions = actions(store).await;
            assert_eq!(actions.iter().filter(|action| action.contains("by_hand")).count(), 1, "{crash}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_restart_finds_what_was_stored() {
    let bench = Bench::new();
    let (store, trial) = bench.with_trial().await;
    drop(store);
    assert_eq!(stored(&bench.open()).await, trial);
    assert_eq!(bench.text("billing.json"), Document::of(&trial.state).to_text().unwrap());
}

#[tokio::test]
async fn only_one_process_uses_the_directory() {
    let bench = Bench::new();
    let store = bench.open();
    let entropy = Arc::new(SeededEntropy::default());
    let second = FileStore::open(bench.data.path(), Arc::new(bench.clock.clone()), entropy);
    assert!(second.unwrap_err().to_string().contains("in use by another process"));
    drop(store);
    bench.open();
}

#[tokio::test]
async fn an_edit_by_hand_takes_effect_and_is_audited_once() {
    let bench = Bench::new();
    let (store, trial) = bench.with_trial().await;
    bench.edit("\"trial\"", "\"suspended\"");
    bench.clock.advance(std::time::Duration::from_mins(1));
    for _ in 0..3 {
        let found = stored(&store).await;
        assert_eq!((found.state.subscription_state, found.revision), (Suspended, 2));
        assert_ne!(found.state.etag(), trial.state.etag());
    }
    let newest = store.audit(&org(), None, 1).await.unwrap().remove(0);
    assert_eq!(
        (newest.action.as_str(), newest.actor.as_str()),
        ("billing_state_edited_by_hand", "service:billing-state")
    );
    let details = newest.details.unwrap();
    assert_eq!(details.before.unwrap()["subscription_state"], "trial");
    assert_eq!(details.after.unwrap()["subscription_state"], "suspended");

    let stale = store.put(set_on(&trial.state, &ask(Active), 70)).await;
    assert!(matches!(stale, Err(StoreError::Conflict)), "who has not seen the edit does not undo it");
}

#[tokio::test]
async fn who_follows_is_told_of_an_edit_by_hand_that_nobody_has_looked_at() {
    let bench = Bench::new();
    let (store, _) = bench.with_trial().await;
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let shutdown = Shutdown::new();
    let on = move |event| told.send(event).unwrap_or_default();
    assert!(store.follow(&shutdown, Box::new(on)).is_none(), "nobody else calls such a store");
    // What was changed a moment ago may be looked at twice.
    let mut hears_of = async |revision: Option<u64>| {
        let told = tokio::time::timeout(std::time::Duration::from_secs(20), async {
            loop {
                let Event::Looked { org: of, found } = hears.recv().await.unwrap() else {
                    panic!("not an edit")
                };
                assert_eq!(of, org());
                let found = found.map(|found| match found {
                    Lookup::Stored(stored) => stored.revision,
                    other => panic!("{other:?}"),
                });
                if found == revision {
                    break;
                }
            }
        });
        told.await.unwrap();
    };
    bench.edit("\"trial\"", "\"suspended\"");
    hears_of(Some(2)).await;
    assert_eq!(actions(&store).await, ["billing_state_edited_by_hand", "trial_started"]);
    // As an editor does that writes a new file.
    let edited = bench.text("billing.json").replace("\"suspended\"", "\"active\"");
    bench.write("billing.json.new", &edited);
    fs::rename(bench.path("billing.json.new"), bench.path("billing.json")).unwrap();
    hears_of(Some(3)).await;
    fs::remove_file(bench.path("billing.json")).unwrap();
    hears_of(None).await;
    shutdown.trigger();
    shutdown.wait().await.unwrap();
}

#[tokio::test]
async fn a_tenant_that_cannot_be_read_is_listed_without_its_state() {
    let bench = Bench::new();
    let (store, _) = bench.with_trial().await;
    bench.write("billing.json", "{");
    let pages: Vec<_> = store.list().try_collect().await.unwrap();
    assert_eq!(pages.concat(), [Listed { org: org(), stored: None }]);
}

#[tokio::test]
async fn another_layout_of_the_same_content_is_no_edit() {
    let bench = Bench::new();
    let (store, trial) = bench.with_trial().await;
    let value: serde_json::Value = serde_json::from_str(&bench.text("billing.json")).unwrap();
    bench.write("billing.json", &value.to_string().replace(&trial.state.etag(), "whatever"));
    assert_eq!(stored(&store).await, trial);
    assert_eq!(actions(&store).await, ["trial_started"]);
}

#[tokio::test]
async fn a_file_made_by_hand_is_a_state_too() {
    let bench = Bench::new();
    let store = bench.open();
    fs::create_dir(bench.data.path().join("orgs/acme")).unwrap();
    bench.write("billing.json", &Document::of(&trial_write("k", 0).state).to_text().unwrap());
    assert_eq!(stored(&store).await, Stored { state: trial_write("k", 0).state, revision: 1 });
    assert_eq!(actions(&store).await, ["billing_state_edited_by_hand"]);
    assert_eq!(store.creator(&org()).await.unwrap(), None);
    assert_eq!(store.purge(&org(), Some(&key("k"))).await.unwrap().purge, Purge::NotTheirs);
}

#[tokio::test]
async fn a_file_that_cannot_be_understood_is_named_kept_and_stood_in_for() {
    let bench = Bench::new();
    let (store, trial) = bench.with_trial().await;
    let good = bench.text("billing.json");
    let unknown = good.replacen("capabilities", "capabilites", 1);
    for (bad, says) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("\0\0\0\0", "expected value"),
        (good.replacen("trial", "paid", 1).as_str(), "unknown variant"),
        (unknown.as_str(), "unknown field `capabilites`"),
        (good.replacen("acme", "globex", 1).as_str(), "org_id is globex"),
    ] {
        bench.write("billing.json", bad);
        let (text, last_known) = unreadable(store.get(&org()).await);
        assert!(text.starts_with("orgs/acme/billing.json: ") && text.contains(says), "{text}");
        assert_eq!(last_known.as_ref(), Some(&trial), "{text}");
        unreadable(store.put(set_on(&trial.state, &ask(Active), 5)).await);
        unreadable(store.put(trial_write("k", 5)).await);
        assert_eq!(bench.text("billing.json"), bad, "it is never overwritten");
    }
    drop(store);
    let store = bench.open();
    assert_eq!(unreadable(store.get(&org()).await).1, Some(trial.clone()), "also after a restart");
    bench.write("billing.json", &good);
    assert_eq!(stored(&store).await, trial);
    assert_eq!(actions(&store).await, ["trial_started"]);
    assert_eq!(store.put(set_on(&trial.state, &ask(Active), 5)).await.unwrap().stored.revision, 2);
}

#[tokio::test]
async fn a_file_that_is_gone_or_no_file_is_not_no_state() {
    let bench = Bench::new();
    let (store, trial) = bench.with_trial().await;
    fs::remove_file(bench.path("billing.json")).unwrap();
    let (text, last_known) = unreadable(store.get(&org()).await);
    assert!(text.contains("is missing") && last_known == Some(trial.clone()), "{text}");
    fs::create_dir(bench.path("billing.json")).unwrap();
    assert!(unreadable(store.get(&org()).await).0.contains("cannot be read"));
    fs::remove_dir(bench.path("billing.json")).unwrap();
    fs::write(bench.path("billing.json"), vec![b' '; 2 << 20]).unwrap();
    assert!(unreadable(store.get(&org()).await).0.contains("larger than 1 MiB"));
    assert_eq!(
        store.purge(&org(), None).await.unwrap().purge,
        Purge::Removed,
        "it can be purged all the same"
    );
}

#[tokio::test]
async fn an_edit_between_a_crash_and_the_restart_wins() {
    for mend in [false, true] {
        let bench = Bench::new();
        let (_, trial) = bench.with_trial().await;
        let before = bench.text("billing.json");
        // Steps of a change: write next, sync its name, append, then the crash.
        let steps_left = AtomicUsize::new(4 + 1 + 3 + 1);
        let crashing = bench.open_on(Box::new(CrashingDisk { steps_left, torn: 0 }));
        crashing.put(set_on(&trial.state, &ask(Suspended), 9)).await.unwrap_err();
        drop(crashing);
        assert_eq!(bench.text("billing.json"), before);
        assert!(bench.path("billing.json.next").exists());

        bench.write("billing.json", if mend { "{" } else { &before });
        if mend {
            let (_, last_known) = unreadable(bench.open().get(&org()).await);
            assert_eq!(last_known.unwrap().state.subscription_state, Suspended, "what was committed");
            bench.write("billing.json", &before);
        }
        bench.edit("\"trial\"", "\"active\"");
        let store = bench.open();
        assert_eq!(stored(&store).await.state.subscription_state, Active);
        assert!(!bench.path("billing.json.next").exists());
        assert_eq!(
            actions(&store).await,
            ["billing_state_edited_by_hand", "billing_state_changed", "trial_started"]
        );
    }
}

/// What someone does to the text of a log.
type Damage<'a> = &'a dyn Fn(&str) -> String;

/// A log of three records, and its text.
async fn three_records(bench: &Bench) -> (FileStore, BillingState, String) {
    let (store, trial) = bench.with_trial().await;
    let active = store.put(set_on(&trial.state, &ask(Active), 1)).await.unwrap().stored.state;
    let last = store.put(set_on(&active, &ask(Suspended), 2)).await.unwrap().stored.state;
    let log = bench.text("billing-audit.jsonl");
    assert_eq!(log.lines().count(), 3);
    (store, last, log)
}

#[tokio::test]
async fn an_altered_audit_log_is_found_and_nothing_is_written_over_it() {
    let cut_short = |log: &str| log.split_inclusive('\n').take(2).collect::<String>();
    let swapped = |log: &str| {
        let lines: Vec<&str> = log.lines().collect();
        format!("{}\n{}\n{}\n", lines[1], lines[0], lines[2])
    };
    let altered = |log: &str| log.replacen("\"ann\"", "\"eve\"", 1);
    let dropped = |log: &str| log.split_once('\n').unwrap().1.to_owned();
    let torn_later = |log: &str| log[..log.len() - 20].to_owned();
    let garbled = |log: &str| format!("{log}not a record\n");
    let ways: [(&str, Damage<'_>, bool); 7] = [
        ("cut short", &cut_short, true),
        ("cut in the middle of an acknowledged record", &torn_later, true),
        ("garbled", &garbled, true),
        ("emptied", &|_| String::new(), true),
        ("swapped", &swapped, false),
        ("altered", &altered, false),
        ("dropped", &dropped, false),
    ];
    for (name, damage, at_the_end) in ways {
        let bench = Bench::new();
        let (store, state, log) = three_records(&bench).await;
        let damaged = damage(&log);
        bench.write("billing-audit.jsonl", &damaged);
        let listed = store.audit(&org(), None, 10).await;
        assert!(
            matches!(listed, Err(StoreError::Unreadable { .. } | StoreError::BrokenChain { .. })),
            "{name}"
        );
        assert!(listed.unwrap_err().to_string().starts_with("orgs/acme/billing-audit.jsonl: "), "{name}");
        assert_eq!(stored(&store).await.state, state, "{name}: the state is served all the same");
        if at_the_end {
            unreadable(store.put(set_on(&state, &ask(Active), 9)).await);
            assert_eq!(bench.text("billing-audit.jsonl"), damaged, "{name}");
        }
        bench.write("billing-audit.jsonl", &log);
        store.put(set_on(&state, &ask(Active), 9)).await.unwrap();
        assert_eq!(actions(&store).await.len(), 4, "{name}");
    }
}

#[tokio::test]
async fn what_a_crash_leaves_at_the_end_of_the_log_is_dropped() {
    let whole = "\n{\"org_id\":\"acme\",\"sequence\":4,";
    for litter in ["{", "{\"org_id\":\"acme\",\"seq", "\0\0\0\0\0", "{\"a\0\0\0\n", "\0\n\0\n", whole.trim()]
    {
        let bench = Bench::new();
        let (store, state, log) = three_records(&bench).await;
        bench.write("billing-audit.jsonl", &(log.clone() + litter));
        assert_eq!(stored(&store).await, Stored { state: state.clone(), revision: 3 }, "{litter:?}");
        assert_eq!(bench.text("billing-audit.jsonl"), log, "{litter:?}");
    }
    // Only the line's end is missing: the record is whole, and stays.
    let bench = Bench::new();
    let (store, _, log) = three_records(&bench).await;
    bench.write("billing-audit.jsonl", log.trim_end());
    assert_eq!(stored(&store).await.revision, 3);
    assert_eq!(bench.text("billing-audit.jsonl"), log);
}

#[tokio::test]
async fn a_head_that_a_power_failure_took_is_made_up_for() {
    let bench = Bench::new();
    let (store, trial) = bench.with_trial().await;
    let lagging = bench.text("billing-audit.head");
    let active = store.put(set_on(&trial.state, &ask(Active), 1)).await.unwrap().stored;
    for head in [lagging.as_str(), "", "\0\0\0"] {
        bench.write("billing-audit.head", head);
        assert_eq!(stored(&store).await, active);
        assert_eq!(actions(&store).await.len(), 2);
    }
}

#[tokio::test]
async fn a_long_log_is_read_from_its_end() {
    let bench = Bench::new();
    let (store, trial) = bench.with_trial().await;
    let mut state = trial.state;
    for second in 1..40 {
        state = store.put(set_on(&state, &ask(Active), second)).await.unwrap().stored.state;
    }
    assert!(bench.text("billing-audit.jsonl").len() > 16 * 1024, "longer than what is read at first");
    assert_eq!(stored(&store).await, Stored { state, revision: 40 });
    assert_eq!(actions(&store).await.len(), 40);
}

#[tokio::test]
async fn a_purge_leaves_a_tombstone_without_personal_data_and_nothing_else() {
    let bench = Bench::new();
    let (store, _) = bench.with_trial().await;
    store.purge(&org(), None).await.unwrap();
    assert!(!bench.data.path().join("orgs/acme").exists());
    let tombstone = fs::read_to_string(bench.data.path().join("orgs/.purged/acme")).unwrap();
    assert_eq!(tombstone, "{\"purged_at\":\"2030-01-01T00:00:00Z\"}\n");
    drop(store);
    assert_eq!(get(&bench.open()).await, Lookup::Purged);
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_services_user_reads_the_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    let (_store, _) = bench.with_trial().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&bench.data.path().join("orgs/acme")), 0o700);
    for file in ["billing.json", "billing-audit.jsonl", "billing-audit.head"] {
        assert_eq!(mode(&bench.path(file)), 0o600, "{file}");
    }
}
