//! The clients in a file of keys.

use std::{collections::HashMap, sync::Arc};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    grant::{Grant, Identification, KeyHash},
    key_lines, key_toml,
};

/// The clients that a gateway knows from a file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Keys {
    /// API keys by their SHA-256, so that neither the file nor this process contains a usable key.
    keys: Vec<(KeyHash, Arc<Grant>)>,
    /// Clients by the name in their certificate.
    certificates: HashMap<String, Arc<Grant>>,
}

impl Keys {
    /// Reads the keys of a file: TOML, or a line for each key.
    ///
    /// # Errors
    ///
    /// The number of the malformed line, and a description of the problem.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let entries =
            if key_toml::is_toml(text) { key_toml::parse(text) } else { key_lines::parse(text) };
        let mut all = Self::default();
        for (line, identification, grant) in entries? {
            if !all.add(identification, Arc::new(grant)) {
                return Err(format!("line {line}: the key or certificate is listed twice"));
            }
        }
        Ok(all)
    }

    /// Adds a client, unless its key or certificate is known.
    fn add(&mut self, identification: Identification, grant: Arc<Grant>) -> bool {
        match identification {
            Identification::Key(hash) => {
                let is_new = self.keys.iter().all(|(known, _)| *known != hash);
                if is_new {
                    self.keys.push((hash, grant));
                }
                is_new
            }
            Identification::Certificate(name) => self.certificates.insert(name, grant).is_none(),
        }
    }

    /// The permissions of `key`; `None` if the key is unknown. Takes the same time for every key.
    pub(super) fn find(&self, key: &[u8]) -> Option<&Arc<Grant>> {
        let presented = Sha256::digest(key);
        let mut found = None;
        for (hash, grant) in &self.keys {
            if hash.as_slice().ct_eq(&presented).into() {
                found = Some(grant);
            }
        }
        found
    }

    /// The permissions of the client with this name in its certificate, if the file lists it.
    pub(super) fn certificate(&self, name: &str) -> Option<&Arc<Grant>> {
        self.certificates.get(name)
    }

    /// The number of clients.
    pub(super) fn len(&self) -> usize {
        self.keys.len() + self.certificates.len()
    }
}

#[cfg(test)]
mod tests {
    use batchfleet_broker::Priority;

    use super::{super::expiry::Expiry, *};

    /// SHA-256 of "secret" and of "other".
    const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    const OTHER: &str = "D9298A10D1B0735837DC4BD85DAC641B0F3CEF27A47E5D53A54F2F3F5B2FCFFA";

    #[test]
    fn a_key_is_found_by_its_hash_only() {
        let lines = format!("# ours\n\n{SECRET} alice\n  {OTHER}   bob  \n");
        let tables = format!(
            "# ours\n\n[[keys]]\nsha256 = '{SECRET}'\nname = 'alice'\n\
             [[keys]]\nsha256 = '{OTHER}'\nname = 'bob'\n"
        );
        for text in [lines, tables] {
            let keys = Keys::parse(&text).unwrap();
            assert_eq!(keys.len(), 2);
            assert_eq!(&*keys.find(b"secret").unwrap().name, "alice");
            assert_eq!(&*keys.find(b"other").unwrap().name, "bob");
            for wrong in [&b""[..], b"Secret", b"secret ", SECRET.as_bytes()] {
                assert!(keys.find(wrong).is_none());
            }
        }
    }

    #[test]
    fn a_file_without_keys_is_valid_in_both_formats() {
        for text in ["", "\n# none yet\n", "keys = []"] {
            assert_eq!(Keys::parse(text).unwrap().len(), 0, "{text:?}");
        }
    }

    #[test]
    fn both_formats_have_the_same_fields() {
        let line = format!(
            "{SECRET} alice class=critical rate=2.5 in-flight=8 models=a,b expires=2027-01-31"
        );
        let table = format!(
            "[[keys]]\nsha256 = '{SECRET}'\nname = 'alice'\nclass = 'Critical'\nrate = 2.5\n\
             in_flight = 8\nmodels = ['a', 'b']\nexpires = 2027-01-31"
        );
        let all = Grant {
            name: "alice".into(),
            class: Priority::Critical,
            rate: Some(2.5),
            in_flight: Some(8),
            models: Some(vec!["a".to_owned(), "b".to_owned()]),
            expires: Expiry::parse("2027-01-31"),
        };
        for text in [line, table] {
            assert_eq!(**Keys::parse(&text).unwrap().find(b"secret").unwrap(), all, "{text}");
        }
        let line = format!("{SECRET} alice rate=2");
        let table = format!("keys = [{{ sha256 = '{SECRET}', name = 'alice', rate = 2 }}]");
        assert_eq!(Keys::parse(&line), Keys::parse(&table));
    }

    #[test]
    fn a_certificate_has_the_name_of_its_client_unless_another_is_given() {
        let text = "[[keys]]\ncertificate = 'trainer'\nclass = 'critical'\n\
                    [[keys]]\ncertificate = 'spiffe://prod/batch'\nname = 'batch'";
        let keys = Keys::parse(text).unwrap();
        let trainer = keys.certificate("trainer").unwrap();
        assert_eq!((&*trainer.name, trainer.class), ("trainer", Priority::Critical));
        assert_eq!(&*keys.certificate("spiffe://prod/batch").unwrap().name, "batch");
        assert!(keys.certificate("batch").is_none());
        assert!(keys.find(b"trainer").is_none());
        let twice = format!("{text}\n[[keys]]\ncertificate = 'trainer'");
        assert!(Keys::parse(&twice).unwrap_err().starts_with("line 7: "));
    }

    #[test]
    fn an_error_names_the_line_and_never_the_key() {
        for wrong in [
            "secret alice".to_owned(),
            SECRET.to_owned(),
            format!("{} alice", &SECRET[1..]),
            format!("{}g alice", &SECRET[1..]),
            format!("{SECRET} class=critical"),
            format!("{SECRET} alice class=top"),
            format!("{SECRET} alice rate=fast"),
            format!("{SECRET} alice rate=-1"),
            format!("{SECRET} alice in-flight=1.5"),
            format!("{SECRET} alice quota=1"),
            format!("{SECRET} alice expires=soon"),
            format!("{SECRET} alice\n{SECRET} bob"),
        ] {
            let error = Keys::parse(&format!("\n{wrong}")).unwrap_err();
            let line = if wrong.contains("bob") { "line 3: " } else { "line 2: " };
            assert!(error.starts_with(line), "{error}");
            assert!(!error.contains(SECRET), "{error}");
        }
    }

    #[test]
    fn an_error_in_toml_names_the_line_and_the_field() {
        let hash = format!("sha256 = '{SECRET}'");
        for (line, field, fields) in [
            (2, "name", hash.clone()),
            (2, "sha256", "name = 'alice'".to_owned()),
            (3, "sha256", "sha256 = 'secret'\nname = 'alice'".to_owned()),
            (3, "sha256", format!("sha256 = '{}g'\nname = 'alice'", &SECRET[1..])),
            (4, "name", format!("{hash}\nname = 7")),
            (5, "class", format!("{hash}\nname = 'alice'\nclass = 'top'")),
            (5, "rate", format!("{hash}\nname = 'alice'\nrate = 'fast'")),
            (5, "rate", format!("{hash}\nname = 'alice'\nrate = -1")),
            (5, "rate", format!("{hash}\nname = 'alice'\nrate = inf")),
            (5, "in_flight", format!("{hash}\nname = 'alice'\nin_flight = 1.5")),
            (5, "in_flight", format!("{hash}\nname = 'alice'\nin_flight = -1")),
            (5, "expires", format!("{hash}\nname = 'alice'\nexpires = 'soon'")),
            (5, "expires", format!("{hash}\nname = 'alice'\nexpires = 12:00:00")),
            (2, "certificate", format!("{hash}\nname = 'alice'\ncertificate = 'alice'")),
            (5, "models", format!("{hash}\nname = 'alice'\nmodels = 'a'")),
            (5, "quota", format!("{hash}\nname = 'alice'\nquota = 1")),
            (5, "", format!("{hash}\nname = 'alice'\nrate")),
            (5, "", format!("{hash}\nname = 'alice'\n[[keys]]\n{hash}\nname = 'bob'")),
        ] {
            let error = Keys::parse(&format!("\n[[keys]]\n{fields}")).unwrap_err();
            assert!(error.starts_with(&format!("line {line}: ")), "{fields}: {error}");
            assert!(error.contains(field) && !error.contains('\n'), "{fields}: {error}");
            assert!(!error.contains(SECRET), "{error}");
        }
    }
}
