//! What a stream says, one case at a time.

use pulse_kernel::Clock as _;
use tokio::{sync::watch, time::Instant};

use super::*;

/// As few as one can see.
fn small() -> Limits {
    Limits { kept: 3, unread: 4, ..Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn it_says_what_there_is_and_then_what_changes() {
    let model = Model::new();
    for (id, version) in [("a", 1), ("b", 5), ("c", 2), ("d", 1)] {
        model.set(id, version);
    }
    model.remove("b");
    let running = Running::start(model, Limits::default());
    let mut stream = running.watch();
    assert_eq!(stream.many(4).await, ["a@1", "c@2", "d@1", "synced"]);
    running.set("a", 2);
    assert_eq!(stream.news().await, "a@2");
    running.remove("c");
    running.set("e", 1);
    let mut both = stream.many(2).await;
    both.sort();
    assert_eq!(both, ["c-", "e@1"]);
    // What is no news is not said.
    running.hub.changed(&org("a"));
    running.hub.changed_to(&org("a"), 1);
    running.hub.changed(&org("never"));
    assert!(stream.is_silent().await);
}

#[tokio::test(start_paused = true)]
async fn it_can_be_about_some_tenants_or_about_changes_only() {
    let running = Running::start(Model::new(), Limits::default());
    running.model.set("a", 1);
    running.model.set("b", 1);
    running.model.set("gone", 1);
    running.model.remove("gone");
    let mut named = running.watch_with(&["b", "gone", "later"], WatchMode::Snapshot, "");
    let mut changes = running.watch_with(&[], WatchMode::ChangesOnly, "");
    let mut both = running.watch_with(&["later"], WatchMode::ChangesOnly, "");
    assert_eq!(named.many(3).await, ["b@1", "gone-", "synced"], "of a tenant that never was nothing is said");
    assert_eq!((changes.news().await, both.news().await), ("synced".to_owned(), "synced".to_owned()));
    running.set("a", 2);
    assert_eq!(changes.news().await, "a@2");
    running.set("later", 1);
    for stream in [&mut named, &mut changes, &mut both] {
        assert_eq!(stream.news().await, "later@1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_read_once_however_many_watch() {
    let running = Running::start(Model::new(), Limits::default());
    let mut streams: Vec<_> = (0..1000).map(|_| running.watch()).collect();
    for stream in &mut streams {
        assert_eq!(stream.news().await, "synced");
    }
    let before = running.model.lock().reads;
    for version in 1..=3 {
        running.set("a", version);
        running.hub.changed_to(&org("a"), version);
        for stream in &mut streams {
            assert_eq!(stream.news().await, format!("a@{version}"));
        }
        // Heard again, in another way.
        running.hub.changed_to(&org("a"), version);
    }
    assert_eq!(running.model.lock().reads - before, 3);
}

#[tokio::test(start_paused = true)]
async fn a_later_stream_goes_on_where_an_earlier_one_was() {
    let running = Running::start(Model::new(), small());
    running.model.set("a", 1);
    let mut first = running.watch();
    assert_eq!(first.next().await, "a@1");
    assert_eq!(first.token, "", "in the middle of a snapshot there is nothing to go on from");
    assert_eq!(first.next().await, "synced");
    let synced = first.token.clone();
    running.set("b", 1);
    assert_eq!(first.next().await, "b@1");
    let later = first.token.clone();
    running.set("a", 2);
    assert_eq!(first.next().await, "a@2");
    drop(first);

    let resume = |token: &str| running.watch_with(&[], WatchMode::Snapshot, token);
    assert_eq!(resume(&synced).many(3).await, ["b@1", "a@2", "synced"]);
    let mut second = resume(&later);
    assert_eq!(second.many(2).await, ["a@2", "synced"]);
    running.set("c", 1);
    assert_eq!(second.next().await, "c@1");
    assert_eq!(resume(&second.token).many(1).await, ["synced"]);

    // What the ring has forgotten cannot be said again.
    running.set("c", 2);
    assert_eq!(second.next().await, "c@2");
    assert_eq!(resume(&later).many(4).await, ["a@2", "c@1", "c@2", "synced"]);
    let all = ["reset: token_expired", "a@2", "b@1", "c@2", "synced"];
    assert_eq!(resume(&synced).many(5).await, all);
    let mut changes = running.watch_with(&[], WatchMode::ChangesOnly, &synced);
    assert_eq!(changes.many(2).await, ["reset: token_expired", "synced"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_hub_or_of_other_tenants_or_of_none_means_nothing() {
    let (running, other) =
        (Running::start(Model::new(), Limits::default()), Running::prepare(Model::new(), Limits::default()));
    let other = Hub::new(
        "tests",
        other.model,
        Limits::default(),
        Arc::new(ManualClock::default()),
        &SeededEntropy::new(7),
    );
    other.run(&running.shutdown, None);
    let request = WatchRequest::parse(&[], 0, String::new()).unwrap();
    let mut foreign = Stream { messages: other.watch(request).unwrap(), token: String::new() };
    assert_eq!(foreign.next().await, "synced");
    let mut named = running.watch_with(&["a"], WatchMode::Snapshot, "");
    assert_eq!(named.next().await, "synced");
    let mut own = running.watch();
    assert_eq!(own.next().await, "synced");
    let token = request::ResumeToken::decode(&own.token).unwrap();
    let future = request::ResumeToken { place: token.place + 1, ..token }.encode();
    for token in [&foreign.token, &named.token, &future, "garbage", "🦀"] {
        let mut stream = running.watch_with(&[], WatchMode::Snapshot, token);
        assert_eq!(stream.many(2).await, ["reset: token_unknown", "synced"], "{token}");
    }
    assert_eq!(running.watch_with(&["a"], WatchMode::Snapshot, &named.token).next().await, "synced");
}

#[tokio::test(start_paused = true)]
async fn everybody_starts_over_when_something_may_have_been_missed() {
    let running = Running::start(Model::new(), small());
    running.model.set("a", 1);
    let (mut all, mut changes) = (running.watch(), running.watch_with(&[], WatchMode::ChangesOnly, ""));
    let mut named = running.watch_with(&["b"], WatchMode::Snapshot, "");
    assert_eq!(all.many(2).await, ["a@1", "synced"]);
    assert_eq!((changes.next().await, named.next().await), ("synced".to_owned(), "synced".to_owned()));
    // Nobody said so.
    running.model.set("a", 2);
    running.model.set("b", 1);
    running.hub.missed();
    assert_eq!(all.many(4).await, ["reset: changes_missed", "a@2", "b@1", "synced"]);
    assert_eq!(changes.many(2).await, ["reset: changes_missed", "synced"]);
    assert_eq!(named.many(3).await, ["reset: changes_missed", "b@1", "synced"]);
    // Too many at once are as good as missed.
    for number in 0..20 {
        running.set(&format!("org-{number}"), 1);
    }
    assert_eq!(changes.next().await, "reset: changes_missed");
    // A store that goes back to an earlier state is no reason to tell versions in the wrong order.
    assert_eq!(all.next().await, "reset: changes_missed");
    while all.next().await != "synced" {}
    running.set("a", 5);
    assert_eq!(all.news().await, "a@5");
    running.set("a", 4);
    assert_eq!(all.many(2).await, ["reset: changes_missed", "a@4"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_said_when_it_can() {
    let running = Running::start(Model::new(), Limits::default());
    let mut stream = running.watch();
    assert_eq!(stream.next().await, "synced");
    running.model.lock().failing = true;
    running.set("a", 1);
    let beats = [stream.heartbeat().await, stream.heartbeat().await];
    assert_eq!(beats.map(|beat| beat.age.as_secs()), [5, 10], "what was committed since then was not said");
    assert_eq!(running.watch().end().await.reason(), Reason::Unavailable, "a snapshot has nothing to say");
    running.model.lock().failing = false;
    assert_eq!(stream.next().await, "a@1");
    assert_eq!(stream.heartbeat().await.age, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_goes_on_failing_does_not_spoil_the_age_of_all_others() {
    let running = Running::start(Model::new(), Limits::default());
    let mut stream = running.watch();
    assert_eq!(stream.next().await, "synced");
    running.model.lock().failing = true;
    running.set("a", 1);
    assert_eq!(stream.news().await, "a?", "nobody knows what it is");
    assert_eq!(stream.heartbeat().await.age, Duration::ZERO);
    running.model.lock().failing = false;
    assert_eq!(stream.news().await, "a@1");
}

#[tokio::test(start_paused = true)]
async fn what_is_heard_of_late_is_as_old_as_the_look_before_it() {
    let running = Running::prepare(Model::new(), Limits::default());
    let (looked, looks) = watch::channel(Some(Instant::now()));
    running.hub.run(&running.shutdown, Some(looks));
    let mut stream = running.watch();
    assert_eq!(stream.next().await, "synced");
    let begin = Instant::now();
    let stalled = async { while stream.heartbeat().await.age < Duration::from_mins(1) {} };
    stalled.await;
    // What others did meanwhile is heard of, and cannot be read yet.
    running.model.lock().failing = true;
    running.set("a", 1);
    looked.send_replace(Some(Instant::now()));
    assert_eq!(stream.heartbeat().await.age, begin.elapsed());
    running.model.lock().failing = false;
    assert_eq!(stream.news().await, "a@1");
    looked.send_replace(Some(Instant::now()));
    assert!(stream.heartbeat().await.age <= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_tell_how_far_the_stream_can_be_trusted() {
    let running = Running::prepare(Model::new(), Limits::default());
    let (looked, looks) = watch::channel(None);
    running.hub.run(&running.shutdown, Some(looks));
    running.set("a", 1);
    let mut stream = running.watch();
    assert!(stream.is_silent().await, "not before what others do is heard of");
    looked.send_replace(Some(Instant::now()));
    assert_eq!(stream.many(2).await, ["a@1", "synced"], "and then what came before is no news");
    let begin = Instant::now();
    let first = stream.heartbeat().await;
    assert_eq!(first.server_time, ManualClock::default().now());
    assert_eq!(first.age, begin.elapsed());
    looked.send_replace(Some(Instant::now()));
    assert_eq!(stream.heartbeat().await.age, Duration::from_secs(5));
    assert_eq!(stream.heartbeat().await.age, Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_does_not_hear_of_changes_says_so() {
    let running = Running::prepare(Model::new(), Limits::default());
    let (_looked, looks) = watch::channel(None);
    running.hub.run(&running.shutdown, Some(looks));
    let error = running.watch().end().await;
    assert_eq!(error.reason(), Reason::Unavailable);
    assert!(error.retry_delay().is_some());
}

#[tokio::test(start_paused = true)]
async fn who_does_not_keep_up_is_told_so() {
    let running = Running::start(Model::new(), small());
    let (mut behind, mut stuck) = (running.watch(), running.watch());
    assert_eq!((behind.next().await, stuck.next().await), ("synced".to_owned(), "synced".to_owned()));
    for version in 1..=5 {
        running.set("a", version);
        // Each is published, and not only the last.
        while running.hub.0.ring.head() < version {
            tokio::task::yield_now().await;
        }
    }
    let error = behind.end().await;
    assert_eq!(error.reason(), Reason::SlowConsumer, "the ring has left it behind");
    assert!(error.retry_delay().is_some());

    // Nobody takes anything from it for a while.
    let mut stuck_too = running.watch();
    assert_eq!(stuck_too.many(2).await, ["a@5", "synced"]);
    tokio::time::sleep(Duration::from_secs(34)).await;
    assert_eq!(stuck_too.next().await, "heartbeat", "it was late, but not too late");
    tokio::time::sleep(Duration::from_secs(36)).await;
    assert_eq!(stuck_too.end().await.reason(), Reason::SlowConsumer);
    assert_eq!(stuck.end().await.reason(), Reason::SlowConsumer);
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_is_not_the_watchers_fault() {
    let model = Model::with(80_000, 3);
    for number in 0..6 {
        model.set(&format!("org-{number}"), 1);
    }
    let running = Running::start(model, Limits::default());
    let mut stream = running.watch();
    let mut said = Vec::new();
    while !said.iter().any(|event| event == "synced") {
        let next = stream.try_next(Duration::from_mins(5)).await.expect("it goes on").unwrap();
        said.push(show(&next));
    }
    assert_eq!(said.iter().filter(|event| event.ends_with("@1")).count(), 6, "{said:?}");
    assert!(said.iter().any(|event| event == "heartbeat"), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn there_is_room_for_so_many_and_no_more() {
    let running = Running::start(Model::new(), Limits { max_watchers: 2, ..Limits::default() });
    let streams = [running.watch(), running.watch()];
    let request = || WatchRequest::parse(&[], 0, String::new()).unwrap();
    let refused = running.hub.watch(request()).err().unwrap();
    assert_eq!((refused.reason(), refused.retry_delay().is_some()), (Reason::Overloaded, true));
    drop(streams);
    assert!(running.hub.watch(request()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn streams_end_when_the_server_stops() {
    let running = Running::start(Model::with(10_000, 1), Limits::default());
    let mut idle = running.watch_with(&[], WatchMode::ChangesOnly, "");
    assert_eq!(idle.next().await, "synced");
    running.model.set("a", 1);
    let mut reading = running.watch();
    assert!(reading.is_silent().await);
    running.shutdown.trigger();
    let begin = Instant::now();
    for stream in [&mut idle, &mut reading, &mut running.watch()] {
        let error = stream.end().await;
        assert_eq!((error.reason(), error.retry_delay().is_some()), (Reason::Unavailable, true));
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    running.shutdown.wait().await.unwrap();
}
