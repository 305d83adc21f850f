//! Where a client's token is looked for: `proxy`, the environment, a file, systemd's credentials. It reads it and shows it to nobody.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::exit::{Exit, Trouble};
use crate::config::{Credentials, Role, Row, Settings, Source};

/// Where `join` writes it, in the prefix.
pub const TOKEN: &str = "keys/token";

/// The name of the credential that systemd passes (LoadCredential=, SetCredentialEncrypted=).
const CREDENTIAL: &str = "ws-daemon.token";

/// The longest token, in bytes.
const TOKEN_BYTES: u64 = 4096;

/// What was found, and where.
struct Found {
    token: String,
    place: String,
    source: Source,
}

/// Gives a client the token that it has, with the name that goes with it, and adds a row that says where it was.
pub fn find(settings: &mut Settings, rows: &mut Vec<Row>) -> Result<(), Trouble> {
    find_with(settings, rows, |name| std::env::var_os(name).filter(|value| !value.is_empty()))
}

fn find_with(settings: &mut Settings, rows: &mut Vec<Row>, get: impl Fn(&str) -> Option<OsString>) -> Result<(), Trouble> {
    let Role::Client { servers } = &mut settings.role else { return Ok(()) };
    let has_none = |credentials: Option<&Credentials>| credentials.is_none_or(|credentials| credentials.token.is_empty());
    if !servers.iter().any(|server| has_none(server.credentials.as_ref())) {
        return Ok(());
    }
    let Some(Found { token, place, source }) = look(&settings.prefix, settings.token_file.as_deref(), get)? else {
        return Ok(());
    };
    for server in servers.iter_mut().filter(|server| has_none(server.credentials.as_ref())) {
        let named = server.credentials.take().map(|credentials| credentials.name).filter(|name| !name.is_empty());
        let Some(name) = named.or_else(|| settings.name.clone()) else {
            let said = format!("the token in {place} needs the name that goes with it: set \"name\" in config.json");
            return Err(Trouble::new(Exit::Config, said));
        };
        server.credentials = Some(Credentials { name, token: token.clone() });
    }
    rows.push(Row { name: "token", value: place.into(), note: Some("it is not shown"), source });
    Ok(())
}

fn look(prefix: &Path, named: Option<&Path>, get: impl Fn(&str) -> Option<OsString>) -> Result<Option<Found>, Trouble> {
    if let Some(token) = get("WSDAEMON_TOKEN") {
        let place = "WSDAEMON_TOKEN".to_owned();
        let token = good(&token.to_string_lossy(), &place)?;
        return Ok(Some(Found { token, place, source: Source::Environment }));
    }
    let (path, source) = match named {
        Some(path) => (prefix.join(path), Source::File),
        None => (prefix.join(TOKEN), Source::Default),
    };
    if let Some(token) = read(&path, named.is_some(), true)? {
        return Ok(Some(Found { token, place: path.display().to_string(), source }));
    }
    let Some(path) = get("CREDENTIALS_DIRECTORY").map(|folder| PathBuf::from(folder).join(CREDENTIAL)) else { return Ok(None) };
    // Who may read what is there is for systemd to say.
    let found = read(&path, false, false)?;
    Ok(found.map(|token| Found { token, place: path.display().to_string(), source: Source::Environment }))
}

fn read(path: &Path, must: bool, is_ours: bool) -> Result<Option<String>, Trouble> {
    let shown = path.display();
    let failed = |error: std::io::Error| {
        Trouble::new(
            Exit::Config,
            format_args!("the token file {shown} cannot be read: {error}; join again, or set \"token_file\""),
        )
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound && !must => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(failed)?.mode();
    if is_ours && mode & 0o077 != 0 {
        let said = format_args!(
            "the token file {shown} can be read or written by others (mode {:03o}), and whoever has read it can be this peer. Run: \
             chmod 600 {shown}, and, if somebody may have read it, \"ws-daemon peers rotate NAME --at-once\" on the server",
            mode & 0o777
        );
        return Err(Trouble::new(Exit::Config, said));
    }
    let mut token = String::new();
    (&mut file).take(TOKEN_BYTES + 1).read_to_string(&mut token).map_err(failed)?;
    good(&token, &shown.to_string()).map(Some)
}

fn good(text: &str, place: &str) -> Result<String, Trouble> {
    let token = text.trim();
    let is_good = !token.is_empty() && token.len() as u64 <= TOKEN_BYTES && !token.contains(char::is_control);
    let wrong =
        || Trouble::new(Exit::Config, format_args!("{place} holds no token: it is one line of 1 to {TOKEN_BYTES} bytes"));
    if is_good { Ok(token.to_owned()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{Sources, Written};

    /// Name and token, where they were, for a config of these words and a `keys/token` file of this mode.
    fn found(config: &str, prefix: &Path, variables: &[(&str, &str)]) -> Result<Option<(String, String, String)>, String> {
        let text = format!("{{\"mode\":\"client\",{config}}}");
        let file = Some(Written::parse(Path::new("config.json"), &text).expect("a config"));
        let sources = Sources { prefix: (prefix.to_owned(), Source::Flag), file, ..Sources::default() };
        let (mut settings, mut rows) = Settings::resolve(&sources).expect("complete");
        let get = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into());
        find_with(&mut settings, &mut rows, get).map_err(|trouble| trouble.said().to_owned())?;
        let Role::Client { servers } = settings.role else { panic!("a client") };
        let place = rows.iter().find(|row| row.name == "token").map(|row| row.value.as_str().unwrap_or_default().to_owned());
        assert!(rows.iter().all(|row| !row.shown().contains("secret")));
        Ok(servers.first.credentials.map(|found| (found.name, found.token, place.unwrap_or_default())))
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    }

    #[test]
    fn the_first_place_that_has_a_token_wins() {
        let folder = tempfile::tempdir().expect("a folder");
        let (prefix, credentials) = (folder.path().join("p"), folder.path().join("c"));
        let directory = ("CREDENTIALS_DIRECTORY", credentials.to_str().expect("plain"));
        let variable = ("WSDAEMON_TOKEN", "secret-v");
        let named = r#""proxy":"h","name":"web""#;
        let of = |name: &str, token: &str, place: &str| Ok(Some((name.into(), token.into(), place.into())));
        let path = |path: PathBuf| path.display().to_string();
        assert_eq!(found(named, &prefix, &[directory]), Ok(None));
        write(&credentials.join("ws-daemon.token"), "secret-c\n", 0o440);
        assert_eq!(found(named, &prefix, &[directory]), of("web", "secret-c", &path(credentials.join("ws-daemon.token"))));
        write(&prefix.join("keys/token"), "secret-f\n", 0o600);
        assert_eq!(found(named, &prefix, &[directory]), of("web", "secret-f", &path(prefix.join("keys/token"))));
        write(&prefix.join("mine"), "secret-m", 0o400);
        let mine = r#""proxy":"h","name":"web","token_file":"mine""#;
        assert_eq!(found(mine, &prefix, &[directory]), of("web", "secret-m", &path(prefix.join("mine"))));
        assert_eq!(found(mine, &prefix, &[directory, variable]), of("web", "secret-v", "WSDAEMON_TOKEN"));
        assert_eq!(found(r#""proxy":"till:secret-p@h","name":"web""#, &prefix, &[variable]), of("till", "secret-p", ""));
        assert_eq!(found(r#""proxy":"till@h","name":"web""#, &prefix, &[variable]), of("till", "secret-v", "WSDAEMON_TOKEN"));
        let nameless = found(r#""proxy":"h""#, &prefix, &[variable]).expect_err("no name");
        assert!(nameless.contains("\"name\""), "{nameless}");
    }

    #[test]
    fn a_token_that_others_can_read_is_refused_with_what_to_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let (named, path) = (r#""proxy":"h","name":"web""#, folder.path().join("keys/token"));
        for mode in [0o604, 0o640, 0o602, 0o644] {
            write(&path, "secret", mode);
            let said = found(named, folder.path(), &[]).expect_err("refused");
            assert!(said.contains(&format!("chmod 600 {}", path.display())) && !said.contains("secret"), "{said}");
        }
        for (text, mode) in [("", 0o600), ("two\nlines", 0o600), (&"x".repeat(5000), 0o600)] {
            write(&path, text, mode);
            let said = found(named, folder.path(), &[]).expect_err("refused");
            assert!(said.contains("holds no token"), "{said}");
        }
        let said = found(r#""proxy":"h","name":"web","token_file":"none""#, folder.path(), &[]).expect_err("refused");
        assert!(said.contains("none cannot be read"), "{said}");
    }
}
