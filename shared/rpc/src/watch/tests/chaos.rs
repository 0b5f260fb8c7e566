//! I8: per-tenant versions on a stream never go backwards, a gap forces a reset, and whoever follows the rules has, in the end,
//! a copy of what is stored.

use std::collections::{BTreeSet, HashMap};

use futures::future::join_all;
use tokio::{sync::watch, time::sleep};

use super::*;

const TENANTS: u64 = 11;

/// Few, so that they are too few now and then.
fn limits() -> Limits {
    Limits {
        max_watchers: 100,
        kept: 12,
        unread: 6,
        reads: 2,
        heartbeat: Duration::from_millis(70),
        patience: Duration::from_millis(50),
    }
}

fn id(number: u64) -> String {
    format!("org-{number:02}")
}

/// Changes tenants, and tells the hub sooner or later, or that it missed something.
async fn write(running: &Running, mut chance: SmallRng) {
    let mut removed = BTreeSet::new();
    for _ in 0..120 {
        sleep(Duration::from_millis(chance.random_range(0..12))).await;
        let org = id(chance.random_range(0..TENANTS));
        if removed.contains(&org) {
            continue;
        }
        let version = running.model.all().get(org.as_str()).copied().unwrap_or_default() + 1;
        if version > 8 && chance.random_ratio(1, 4) {
            running.model.remove(&org);
            removed.insert(org.clone());
        } else {
            running.model.set(&org, version);
        }
        let (hub, late) = (running.hub.clone(), Duration::from_millis(chance.random_range(0..6)));
        let org = OrgId::parse(&org).unwrap();
        match chance.random_range(0..20) {
            // Whoever loses a hint knows that something was lost.
            0 => hub.missed(),
            1..8 => hub.changed_to(&org, version),
            8..14 => hub.changed(&org),
            _ => {
                tokio::spawn(async move {
                    sleep(late).await;
                    hub.changed(&org);
                });
            }
        }
    }
}

/// A client that keeps a copy.
#[derive(Default)]
struct Copy {
    tenants: HashMap<OrgId, u64>,
    /// What was said since the first stream began, or since the last reset.
    said: HashMap<OrgId, u64>,
    /// Whether what it says until it is synced is all there is.
    in_snapshot: bool,
    resets: usize,
    ends: usize,
}

impl Copy {
    fn hear(&mut self, event: &Event<u64>) {
        match event {
            Event::Changed(change) => {
                let version = change.now.version().unwrap();
                let before = self.said.insert(change.org.clone(), version);
                assert!(before <= Some(version), "{} after {before:?}", show(event));
                match change.now {
                    Now::Gone => self.tenants.remove(&change.org),
                    Now::State { .. } | Now::Unreadable => self.tenants.insert(change.org.clone(), version),
                };
            }
            Event::Reset(_) => {
                self.resets += 1;
                self.said.clear();
                self.in_snapshot = true;
            }
            Event::Synced if self.in_snapshot => {
                self.in_snapshot = false;
                self.tenants.retain(|org, _| self.said.contains_key(org));
            }
            Event::Synced | Event::Heartbeat(_) => {}
        }
    }
}

/// Watches, at its own pace and with interruptions, until it has what is stored when the writers have ended.
async fn watch(
    running: &Running,
    mut done: watch::Receiver<bool>,
    mut chance: SmallRng,
    named: &[&str],
) -> Copy {
    let mut copy = Copy::default();
    let mut token = String::new();
    let slowness = chance.random_range(1..8);
    loop {
        if token.is_empty() {
            (copy.said, copy.in_snapshot) = (HashMap::new(), true);
        }
        let mut stream = running.watch_with(named, WatchMode::Snapshot, &token);
        loop {
            let is_over = *done.borrow_and_update();
            match stream.try_next(Duration::from_millis(500)).await {
                Some(Ok(event)) => copy.hear(&event),
                Some(Err(status)) => {
                    assert_eq!(crate::from_status(&status).reason(), Reason::SlowConsumer);
                    copy.ends += 1;
                    break;
                }
                None => panic!("not even a heartbeat"),
            }
            let stored = running.model.all().into_iter();
            let stored = stored.filter(|(org, _)| named.is_empty() || named.contains(&org.as_str()));
            if is_over && copy.tenants == stored.collect() {
                return copy;
            }
            if !is_over && chance.random_ratio(1, 60) {
                break;
            }
            let pause = if chance.random_ratio(1, 50) { 200 } else { chance.random_range(0..slowness) };
            if !is_over {
                sleep(Duration::from_millis(pause)).await;
            }
        }
        token = stream.token;
    }
}

#[tokio::test(start_paused = true)]
async fn no_version_goes_backwards_and_every_copy_is_right_in_the_end() {
    let (mut resets, mut ends) = (0, 0);
    for seed in 0..150 {
        let running = Running::start(Model::with(7, seed), limits());
        let (told, done) = watch::channel(false);
        let mut chance = SmallRng::seed_from_u64(seed);
        let mut fork = || SmallRng::seed_from_u64(chance.next_u64());
        let named = [id(1), id(4), id(7), "never".to_owned()];
        let named: Vec<_> = named.iter().map(String::as_str).collect();
        let all = (0..4).map(|_| watch(&running, done.clone(), fork(), &[])).collect::<Vec<_>>();
        let some = (0..2).map(|_| watch(&running, done.clone(), fork(), &named)).collect::<Vec<_>>();
        let writer = write(&running, fork());
        let writing = async {
            writer.await;
            told.send_replace(true);
        };
        let working = async { tokio::join!(writing, join_all(all), join_all(some)) };
        let worked = timeout(Duration::from_mins(10), working).await;
        let ((), all, some) = worked.unwrap_or_else(|_| panic!("seed {seed}: a copy is never right"));
        resets += all.iter().chain(&some).map(|copy| copy.resets).sum::<usize>();
        ends += all.iter().chain(&some).map(|copy| copy.ends).sum::<usize>();
        running.shutdown.trigger();
    }
    assert!(resets > 100 && ends > 50, "that was too easy: {resets} resets, {ends} ends");
}
