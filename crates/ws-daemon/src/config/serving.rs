//! Who may serve which names, as config.json has it. It decides nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{Account, Accounts, Glob};

/// Some names, and who may serve them, as it was written.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenServing {
    /// The names, as globs.
    #[schemars(length(min = 1))]
    pub names: Vec<Glob>,
    /// Users of this machine by name or number, and groups as `group:…`.
    #[schemars(length(min = 1))]
    pub users: Vec<WrittenUser>,
}

/// A user or a group.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged, expecting = "a user by name or number, or a group like \"group:sms\"")]
pub enum WrittenUser {
    /// A user by number.
    Id(u32),
    /// A user by name or number, or `group:` and that of a group.
    Name(String),
}

/// Some names, and who may serve them.
#[derive(Debug, Clone, Default)]
pub struct Serving {
    /// The names.
    pub names: Vec<Glob>,
    /// Users of this machine.
    pub users: Vec<u32>,
    /// Groups of this machine.
    pub groups: Vec<u32>,
}

impl WrittenServing {
    /// As it is meant.
    ///
    /// # Errors
    /// A list is empty, or this machine does not know somebody.
    pub fn meant(&self, accounts: &Accounts) -> Result<Serving, String> {
        if self.names.is_empty() || self.users.is_empty() {
            return Err("a list that is empty means nobody and nothing; leave it out".to_owned());
        }
        let mut serving = Serving { names: self.names.clone(), ..Serving::default() };
        for user in &self.users {
            let name = match user {
                WrittenUser::Id(id) => {
                    serving.users.push(*id);
                    continue;
                }
                WrittenUser::Name(name) => name,
            };
            let (kind, name) = name.split_once(':').unwrap_or(("user", name));
            let account = name.parse().map_or_else(|_| Account::Name(name.into()), Account::Id);
            let (ids, look_up) = match kind {
                "user" => (&mut serving.users, accounts.user),
                "group" => (&mut serving.groups, accounts.group),
                _ => return Err(format!("{kind:?} is neither \"user\" nor \"group\"")),
            };
            let id = match account {
                Account::Id(id) => Some(id),
                Account::Name(name) => look_up(&name),
            };
            ids.push(id.ok_or_else(|| format!("this machine knows no {kind} {name:?}"))?);
        }
        Ok(serving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_serve_is_read_by_name_and_by_number() {
        let accounts = Accounts { user: |name| (name == "www-data").then_some(33), group: |name| (name == "sms").then_some(8) };
        let meant = |text: &str| {
            let written = serde_json::from_str::<WrittenServing>(text).map_err(|error| error.to_string())?;
            written.meant(&accounts)
        };
        let found =
            meant(r#"{"names":["sms/*"],"users":["www-data",5,"6","user:7","group:sms","group:9"]}"#).expect("as written");
        assert_eq!((found.users, found.groups), (vec![33, 5, 6, 7], vec![8, 9]));
        let table = [
            (r#"{"names":["sms/*"]}"#, "missing field `users`"),
            (r#"{"names":[],"users":[1]}"#, "a list that is empty"),
            (r#"{"names":["a"],"users":[]}"#, "a list that is empty"),
            (r#"{"names":[""],"users":[1]}"#, "a pattern of scripts needs a name"),
            (r#"{"names":["a"],"users":["nobody-here"]}"#, "this machine knows no user \"nobody-here\""),
            (r#"{"names":["a"],"users":["group:www-data"]}"#, "this machine knows no group \"www-data\""),
            (r#"{"names":["a"],"users":["gid:1"]}"#, "\"gid\" is neither"),
            (r#"{"names":["a"],"users":[true]}"#, "a user by name or number"),
            (r#"{"names":["a"],"user":[1]}"#, "unknown field `user`"),
        ];
        for (text, words) in table {
            let said = meant(text).expect_err(text);
            assert!(said.contains(words), "{text}: {said}");
        }
    }
}
