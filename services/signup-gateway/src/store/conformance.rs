//! What every store has to do. `store_conformance!` makes each case a test against one [`Bench`], every time a new one.

use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use pulse_kernel::Entropy as _;
use pulse_rpc::ClientKey;
use pulse_testkit::SeededEntropy;

use super::{Allowance, Decision, Store};

const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);
/// What one signup uses up.
const SHARE: Duration = Duration::from_mins(12);

/// A store as two replicas see it, and its time.
#[async_trait]
pub(crate) trait Bench {
    /// Both see the same.
    fn replicas(&self) -> [&dyn Store; 2];

    /// Lets time pass.
    async fn pass(&self, time: Duration);

    /// How much more has passed than was asked for: the model of a case does not know of it.
    fn passed_by_itself(&self) -> Duration;

    /// Of how many clients something is kept.
    async fn kept(&self) -> usize;
}

/// Runs every case against the bench that `$open` makes.
macro_rules! store_conformance {
    ($open:expr) => {
        $crate::store::conformance::store_conformance! { $open;
            five_at_once_and_then_one_a_share
            refused_signups_do_not_count
            each_client_has_its_own_allowance
            of_many_at_once_exactly_five_are_admitted
            who_waits_as_long_as_told_is_admitted
            any_sequence_is_decided_as_the_arithmetic_says
            clients_are_forgotten_when_their_allowance_is_whole_and_not_before
        }
    };
    ($open:expr; $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let bench = $open.await;
                $crate::store::conformance::$case(&bench).await;
                for replica in bench.replicas() {
                    replica.ping().await.unwrap();
                }
            }
        )*
    };
}
pub(crate) use store_conformance;

pub(crate) fn allowance() -> Allowance {
    Allowance::new(5.try_into().unwrap(), HOUR)
}

pub(crate) fn client(number: u8) -> ClientKey {
    ClientKey::V4([192, 0, 2, number].into())
}

/// Whether the time is what is expected of it, less what has passed by itself.
#[track_caller]
fn assert_time(bench: &impl Bench, time: Duration, expected: Duration) {
    let passed = bench.passed_by_itself();
    assert!(
        time <= expected && time + passed >= expected,
        "{time:?}, not {expected:?} less at most {passed:?}"
    );
}

async fn admitted(bench: &impl Bench, client: ClientKey, whole_in: Duration) {
    let decision = bench.replicas()[0].admit(client).await.unwrap();
    assert!(matches!(decision, Decision::Admitted { .. }), "{decision:?}");
    assert_time(bench, decision.whole_in(), whole_in);
}

async fn refused(bench: &impl Bench, client: ClientKey, retry_after: Duration, whole_in: Duration) {
    for replica in bench.replicas() {
        let decision = replica.admit(client).await.unwrap();
        let Decision::Refused { retry_after: told, .. } = decision else { panic!("{decision:?}") };
        assert_time(bench, told, retry_after);
        assert_time(bench, decision.whole_in(), whole_in);
    }
}

async fn exhaust(bench: &impl Bench, client: ClientKey) -> u32 {
    let mut count = 0;
    while let Decision::Admitted { .. } = bench.replicas()[1].admit(client).await.unwrap() {
        count += 1;
    }
    count
}

pub(crate) async fn five_at_once_and_then_one_a_share(bench: &impl Bench) {
    for n in 1..=5 {
        admitted(bench, client(1), SHARE * n).await;
    }
    refused(bench, client(1), SHARE, HOUR).await;
    bench.pass(Duration::from_mins(11)).await;
    refused(bench, client(1), MINUTE, Duration::from_mins(49)).await;
    bench.pass(MINUTE).await;
    admitted(bench, client(1), HOUR).await;
    refused(bench, client(1), SHARE, HOUR).await;
    bench.pass(SHARE * 2).await;
    assert_eq!(exhaust(bench, client(1)).await, 2);
    bench.pass(HOUR * 10).await;
    assert_eq!(exhaust(bench, client(1)).await, 5, "what is not used does not add up");
}

pub(crate) async fn refused_signups_do_not_count(bench: &impl Bench) {
    assert_eq!(exhaust(bench, client(1)).await, 5);
    for _ in 0..20 {
        refused(bench, client(1), SHARE, HOUR).await;
    }
    bench.pass(SHARE).await;
    assert_eq!(exhaust(bench, client(1)).await, 1);
}

pub(crate) async fn each_client_has_its_own_allowance(bench: &impl Bench) {
    let networks = [0x2001_0db8_0000_0001, 0x2001_0db8_0000_0002, 0x2001_0db8_0001_0001, 0, u64::MAX];
    let clients = networks.map(ClientKey::V6Net).into_iter().chain([client(0), client(1), client(255)]);
    for client in clients {
        assert_eq!(exhaust(bench, client).await, 5, "{client}");
    }
    assert_eq!(bench.kept().await, 8);
}

pub(crate) async fn of_many_at_once_exactly_five_are_admitted(bench: &impl Bench) {
    let replicas = bench.replicas();
    let decisions = join_all((0..200).map(|n| replicas[n % 2].admit(client(1)))).await;
    let decisions: Vec<_> = decisions.into_iter().map(Result::unwrap).collect();
    let admitted: Vec<_> =
        decisions.iter().filter(|decision| matches!(decision, Decision::Admitted { .. })).collect();
    assert_eq!(admitted.len(), 5, "{admitted:?}");
    for decision in decisions {
        if let Decision::Refused { retry_after, whole_in } = decision {
            assert_time(bench, retry_after, SHARE);
            assert_time(bench, whole_in, HOUR);
        }
    }
}

pub(crate) async fn who_waits_as_long_as_told_is_admitted(bench: &impl Bench) {
    assert_eq!(exhaust(bench, client(1)).await, 5);
    for _ in 0..10 {
        let decision = bench.replicas()[0].admit(client(1)).await.unwrap();
        let Decision::Refused { retry_after, .. } = decision else { panic!("{decision:?}") };
        bench.pass(retry_after).await;
        let decision = bench.replicas()[0].admit(client(1)).await.unwrap();
        assert!(matches!(decision, Decision::Admitted { .. }), "{decision:?}");
    }
}

/// Steps of a tenth of a share, so that the moments that pass by themselves decide nothing.
pub(crate) async fn any_sequence_is_decided_as_the_arithmetic_says(bench: &impl Bench) {
    let entropy = SeededEntropy::new(7);
    for number in 0..8 {
        let (mut now, mut whole_at) = (Duration::ZERO, Duration::ZERO);
        let mut steps = [0; 30];
        entropy.fill(&mut steps);
        for step in steps {
            // Mostly short ones, and now and then a long one.
            let step = SHARE / 10 * if step < 240 { u32::from(step % 13) } else { 60 };
            bench.pass(step).await;
            now += step;
            let counted = whole_at.max(now) + SHARE;
            let expected = allowance().judge(counted.saturating_sub(now));
            let replica = bench.replicas()[usize::from(number % 2)];
            match (replica.admit(client(number)).await.unwrap(), expected) {
                (Decision::Admitted { whole_in }, Decision::Admitted { whole_in: expected }) => {
                    assert_time(bench, whole_in, expected);
                    whole_at = counted;
                }
                (
                    Decision::Refused { retry_after, whole_in },
                    Decision::Refused { retry_after: expected, whole_in: expected_whole },
                ) => {
                    assert_time(bench, retry_after, expected);
                    assert_time(bench, whole_in, expected_whole);
                }
                (decision, expected) => panic!("{decision:?}, not {expected:?}, of {steps:?}"),
            }
        }
    }
}

pub(crate) async fn clients_are_forgotten_when_their_allowance_is_whole_and_not_before(bench: &impl Bench) {
    let sweep = async || while bench.replicas()[0].sweep().await.unwrap() {};
    for number in 0..20 {
        admitted(bench, client(number), SHARE).await;
    }
    assert_eq!(exhaust(bench, client(7)).await, 4);
    sweep().await;
    assert_eq!(bench.kept().await, 20);
    // The limiter in memory keeps a key for one share more.
    bench.pass(SHARE * 2).await;
    sweep().await;
    assert_eq!(bench.kept().await, 1);
    assert_eq!(exhaust(bench, client(7)).await, 2, "it is remembered");
    assert_eq!(exhaust(bench, client(8)).await, 5, "it is not");
    bench.pass(HOUR * 2).await;
    sweep().await;
    assert_eq!(bench.kept().await, 0);
}
