use pulse_testkit::eventually;

use super::*;

const WAIT: std::time::Duration = std::time::Duration::from_secs(10);

fn entry(name: &str, token: &str, roles: &str) -> String {
    let sha256 = hex::encode(Sha256::digest(token));
    format!("[[token]]\nname = {name:?}\nsha256 = \"{sha256}\"\nroles = [{roles}]\n")
}

fn load(text: &str) -> Result<OperatorTokens, TokensFileError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    std::fs::write(&path, text).unwrap();
    OperatorTokens::load(&path)
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap()
}

fn name_of(tokens: &OperatorTokens, token: &str) -> Option<String> {
    tokens
        .authenticate(Some(&header(&format!("Bearer {token}"))))
        .ok()
        .map(|operator| operator.name.to_string())
}

#[test]
fn tells_operators_by_their_tokens() {
    let text = entry("ann", "t-ann", "\"support\"") + &entry("bob", "t-bob", "\"billing\", \"viewer\"");
    let tokens = load(&text).unwrap();
    assert_eq!(name_of(&tokens, "t-ann").as_deref(), Some("ann"));
    assert_eq!(name_of(&tokens, "t-bob").as_deref(), Some("bob"));
    let ann = tokens.authenticate(Some(&header("bearer t-ann"))).expect("the scheme's case does not matter");
    assert_eq!(ann.roles, [Role::Support]);
}

#[test]
fn whoever_has_no_token_is_nobody() {
    let tokens = load(&entry("ann", "t-ann", "\"admin\"")).unwrap();
    let hash = hex::encode(Sha256::digest("t-ann"));
    for value in
        ["", "Bearer", "Bearer ", "t-ann", "Basic t-ann", "Bearer t-an", "Bearer t-ann ", "Bearer  t-ann"]
    {
        let error = tokens.authenticate(Some(&header(value))).unwrap_err();
        assert_eq!(error.reason(), Reason::Unauthenticated, "{value}");
    }
    assert_eq!(name_of(&tokens, &hash), None, "the file's content is no token");
    assert_eq!(tokens.authenticate(None).unwrap_err().reason(), Reason::Unauthenticated);
}

#[test]
fn roles_imply_what_the_contract_says() {
    use Role::{Admin, Billing, Support, Viewer};
    let implied = [
        (Viewer, vec![Viewer]),
        (Support, vec![Viewer, Support]),
        (Billing, vec![Viewer, Billing]),
        (Admin, Role::ALL.to_vec()),
    ];
    for (role, implied) in implied {
        for needed in Role::ALL {
            assert_eq!(role.implies(needed), implied.contains(&needed), "{role} {needed}");
        }
    }
}

#[test]
fn a_missing_role_is_named() {
    let tokens = load(&entry("ann", "t-ann", "\"support\"")).unwrap();
    let mut metadata = MetadataMap::new();
    let error = tokens.require(&metadata, Role::Viewer).unwrap_err();
    assert_eq!(error.reason(), Reason::Unauthenticated);
    metadata.insert("authorization", "Bearer t-ann".parse().unwrap());
    assert_eq!(&*tokens.require(&metadata, Role::Viewer).unwrap().name, "ann");
    let error = tokens.require(&metadata, Role::Billing).unwrap_err();
    assert_eq!((error.reason(), error.message()), (Reason::RoleRequired, "the role billing is required"));
}

#[test]
fn a_file_with_any_mistake_is_refused_and_the_mistake_named() {
    let good = entry("ann", "t-ann", "\"admin\"");
    let hash = hex::encode(Sha256::digest("t-ann"));
    let long = "x".repeat(65);
    for (text, says) in [
        (String::new(), "no [[token]]"),
        ("token = 1".to_owned(), "expected [[token]] entries"),
        ("not toml".to_owned(), "expected [[token]] entries"),
        (format!("{good}extra = 1\n"), "unknown field `extra`"),
        (format!("colour = 1\n{good}"), "unknown field `colour`"),
        ("[[token]]\nname = \"ann\"\nroles = [\"admin\"]\n".to_owned(), "sha256"),
        (good.replace(&hash, "xyz"), "64 hexadecimal digits"),
        (good.replace(&hash, &hash[2..]), "64 hexadecimal digits"),
        (entry("ann", "t", "\"root\""), "expected viewer, support, billing or admin"),
        (entry("ann", "t", ""), "at least one of"),
        (entry("", "t", "\"admin\""), "name must be"),
        (entry(&long, "t", "\"admin\""), "name must be"),
        (entry("a\nb", "t", "\"admin\""), "name must be"),
        (entry("service:reaper", "t", "\"admin\""), "must not begin with"),
        (format!("{good}{}", entry("ann", "t-2", "\"admin\"")), "token 2 (\"ann\"): name is used twice"),
        (
            format!("{good}{}", entry("bob", "t-ann", "\"admin\"")),
            "token 2 (\"bob\"): sha256 is that of another",
        ),
    ] {
        let error = load(&text).expect_err(&text).to_string();
        assert!(error.contains(says) && error.contains("tokens.toml"), "{text}\n{error}");
        assert!(!error.contains(&hash) && !error.contains('\n'), "{error}");
    }
    let misplaced = load("token = \"canary-token\"\n").unwrap_err().to_string();
    assert!(misplaced.contains("line 1") && !misplaced.contains("canary"), "{misplaced}");
    let error = OperatorTokens::load(Path::new("/nowhere/tokens.toml")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/tokens.toml"), "{error}");
}

#[test]
fn debug_shows_no_hash() {
    let shown = format!("{:?}", load(&entry("ann", "t-ann", "\"admin\"")).unwrap());
    assert!(shown.contains("ann") && !shown.contains(&hex::encode(Sha256::digest("t-ann"))), "{shown}");
}

#[tokio::test]
async fn a_changed_file_takes_effect_and_a_broken_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    std::fs::write(&path, entry("ann", "t-ann", "\"admin\"")).unwrap();
    let shutdown = Shutdown::new();
    let tokens = OperatorTokens::watch(&path, &shutdown).unwrap();
    let clone = tokens.clone();

    // Same length, and on a coarse clock the same time: the content tells.
    std::fs::write(&path, entry("bob", "t-bob", "\"admin\"")).unwrap();
    eventually(WAIT, async || name_of(&clone, "t-bob").is_some()).await;
    assert_eq!(name_of(&tokens, "t-ann"), None);

    // What is broken or gone changes nothing; whatever comes next is still noticed.
    std::fs::write(&path, "broken").unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "[[token]]").unwrap();
    assert!(name_of(&tokens, "t-bob").is_some());
    std::fs::write(&path, entry("bob", "t-bob", "\"admin\"") + &entry("eve", "t-eve", "\"viewer\"")).unwrap();
    eventually(WAIT, async || name_of(&tokens, "t-eve").is_some()).await;
    assert!(name_of(&tokens, "t-bob").is_some());

    // The last tokens can be taken away too.
    std::fs::write(&path, "token = []\n").unwrap();
    eventually(WAIT, async || name_of(&tokens, "t-bob").is_none()).await;
    assert_eq!(name_of(&tokens, "t-eve"), None);
    shutdown.trigger();
    shutdown.wait().await.unwrap();
}
