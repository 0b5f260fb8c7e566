//! Which rule counts, for every order in which rules can be given.

use proptest::prelude::*;

use super::*;

const ROUTES: [&str; 2] = ["/hosts", "/alerts"];

/// One call of the builder. The number tells requirements apart.
#[derive(Debug, Clone)]
enum Given {
    Require(&'static str, u64),
    RequireFor(Method, &'static str, u64),
    Open(&'static str),
    OfAll(u64),
    RefuseUnlisted,
}

fn requirement(number: u64) -> Requirement<'static> {
    Requirement::limit("hosts", number)
}

fn methods() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::GET, Method::HEAD, Method::POST])
}

fn given() -> impl Strategy<Value = Vec<Given>> {
    let (route, number) = (prop::sample::select(&ROUTES), 0..100_u64);
    let one = prop_oneof![
        (route.clone(), number.clone()).prop_map(|(route, number)| Given::Require(route, number)),
        (methods(), route.clone(), number.clone())
            .prop_map(|(method, route, number)| Given::RequireFor(method, route, number)),
        route.prop_map(Given::Open),
        number.prop_map(Given::OfAll),
        Just(Given::RefuseUnlisted),
    ];
    prop::collection::vec(one, 0..12)
}

fn layer(guard: Guard, given: &[Given]) -> GuardLayer<Grpc> {
    given.iter().cloned().fold(GuardLayer::grpc(guard), |layer, given| match given {
        Given::Require(route, number) => layer.require(route, requirement(number)),
        Given::RequireFor(method, route, number) => layer.require_for(method, route, requirement(number)),
        Given::Open(route) => layer.open(route),
        Given::OfAll(number) => layer.require_of_all(requirement(number)),
        Given::RefuseUnlisted => layer.refuse_unlisted(),
    })
}

/// The rule as the documentation has it: the last one given that is as close as any. Those of the method itself are closest, then
/// for HEAD those of GET, then those of the route, then that of all routes.
fn expected(given: &[Given], method: &Method, route: &str) -> Rule {
    let last = |found: &dyn Fn(&Given) -> Option<Rule>| given.iter().rev().find_map(found);
    let of_method = |method: &Method| {
        last(&|given| match given {
            Given::RequireFor(of, at, number) if of == method && *at == route => {
                Some(Rule::Requires(requirement(*number)))
            }
            _ => None,
        })
    };
    let of_get = if *method == Method::HEAD { of_method(&Method::GET) } else { None };
    let of_route = last(&|given| match given {
        Given::Require(at, number) if *at == route => Some(Rule::Requires(requirement(*number))),
        Given::Open(at) if *at == route => Some(Rule::Open),
        _ => None,
    });
    let of_all = last(&|given| match given {
        Given::OfAll(number) => Some(Rule::Requires(requirement(*number))),
        Given::RefuseUnlisted => Some(Rule::Unlisted),
        _ => None,
    });
    let by_default = Rule::Requires(Requirement::active());
    of_method(method).or(of_get).or(of_route).or(of_all).unwrap_or(by_default)
}

proptest! {
    #[test]
    fn the_closest_rule_counts_and_of_those_the_last_given(
        given in given(),
        method in methods(),
        path in prop::sample::select(vec!["/hosts", "/alerts", "/", "/hosts/", "/Hosts", "/hosts/7"]),
    ) {
        let (_, guard) = Tenant::guard();
        let layer = layer(guard, &given);
        let request = Request::builder().method(method.clone()).uri(path).body(()).unwrap();
        let rule = layer.rules.rule::<Grpc>(&Head::of(&request)).unwrap();
        prop_assert_eq!(rule, expected(&given, &method, path));
    }
}

#[test]
fn a_clone_that_is_changed_leaves_the_other_as_it_was() {
    let (_, guard) = Tenant::guard();
    let layer = GuardLayer::grpc(guard).open("/hosts");
    let _changed = layer.clone().require("/hosts", requirement(7));
    let request = Request::post("/hosts").body(()).unwrap();
    assert_eq!(layer.rules.rule::<Grpc>(&Head::of(&request)).unwrap(), Rule::Open);
}
