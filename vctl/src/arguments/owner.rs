//! Users and groups, by name or number.

use apparatus::error::{Error, Result};
use std::fs;

/// The owner of a volume's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub user: u32,
    /// The group, if one is named.
    pub group: Option<u32>,
}

impl Owner {
    /// Whoever runs this.
    #[must_use]
    pub fn caller() -> Self {
        let group = rustix::process::getegid().as_raw();
        Self {
            user: rustix::process::geteuid().as_raw(),
            group: Some(group),
        }
    }
}

/// `USER`, `USER:GROUP`, each a name or a number. A user named alone brings the group that the system has for it.
///
/// # Errors
/// When there is no such user or group.
pub fn owner(text: &str) -> Result<Owner> {
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    let (user, own_group) = find(user, "user", "/etc/passwd")?;
    let group = group
        .map(|group| find(group, "group", "/etc/group"))
        .transpose()?;
    Ok(Owner {
        user,
        group: group.map_or(own_group, |(group, _)| Some(group)),
    })
}

/// The number of a user or group and, for a user that has a line, the number of its group.
fn find(name: &str, noun: &str, table: &str) -> Result<(u32, Option<u32>)> {
    if let Ok(number) = name.parse::<u32>() {
        return Ok((number, None));
    }
    let lines = fs::read_to_string(table).map_err(|error| Error::because(table, error))?;
    let found = lines.lines().find_map(|line| in_line(line, name, noun == "user"));
    found.ok_or_else(|| {
        Error::usage(format!("{noun} {name:?}"), format!("is not in {table}")).hint("give its number instead")
    })
}

/// `name:password:number:group:…` of a user, `name:password:number:…` of a group.
fn in_line(line: &str, name: &str, user: bool) -> Option<(u32, Option<u32>)> {
    let mut fields = line.split(':');
    if fields.next()? != name || name.is_empty() {
        return None;
    }
    let number = fields.nth(1)?.parse().ok()?;
    let group = if user {
        fields.next().and_then(|group| group.parse().ok())
    } else {
        None
    };
    Some((number, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_by_number_and_name() {
        assert_eq!(
            owner("1000").unwrap(),
            Owner {
                user: 1000,
                group: None
            }
        );
        assert_eq!(
            owner("1000:7").unwrap(),
            Owner {
                user: 1000,
                group: Some(7)
            }
        );
        assert_eq!(
            owner("root").unwrap(),
            Owner {
                user: 0,
                group: Some(0)
            }
        );
        for bad in ["", ":", "no such user", "1000:", "-1", "99999999999"] {
            assert!(owner(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lines() {
        assert_eq!(in_line("u:x:5:6:U:/h:/s", "u", true), Some((5, Some(6))));
        assert_eq!(in_line("g:x:5:u,v", "g", false), Some((5, None)));
        assert_eq!(in_line("uu:x:5:6", "u", true), None);
    }
}
