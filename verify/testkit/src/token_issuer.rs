//! An issuer of JSON web tokens.

use anyhow::Result;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use serde_json::{Value, json};

/// An issuer with one Ed25519 key.
pub struct TokenIssuer {
    key_id: String,
    key: KeyPair,
}

impl TokenIssuer {
    /// An issuer whose new key has this id.
    ///
    /// # Errors
    /// If no key can be generated.
    pub fn new(key_id: &str) -> Result<Self> {
        Ok(Self { key_id: key_id.to_owned(), key: KeyPair::generate_for(&PKCS_ED25519)? })
    }

    /// The public key as a JSON web key.
    pub fn public_key(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key_raw());
        json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.key_id, "x": x })
    }

    /// A signed token with these claims.
    ///
    /// # Errors
    /// If the token cannot be signed.
    pub fn token(&self, claims: &Value) -> Result<String> {
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.key_id });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.key.sign(message.as_bytes())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
