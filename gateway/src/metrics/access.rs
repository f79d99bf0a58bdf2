//! Metrics of access control and TLS.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};
use strum::IntoEnumIterator;

use crate::clients::Denial;

batchfleet_service::metrics! {
    /// Metrics of access control and TLS.
    #[derive(Clone, Debug)]
    pub(crate) struct AccessMetrics {
        /// Requests on any path that were denied: 401, 403, or 429 after too many failed
        /// authentications. `reason` is `missing`, `unknown_key`, `expired_key`, `malformed_token`,
        /// `unknown_signer`, `signature`, `expired_token`, `early_token`, `issuer`, `audience`,
        /// `claims`, `no_token_keys`, `throttled` or `forbidden`.
        #[metric("batchfleet_gateway_denied_total", unit = "requests", labels = ["reason"])]
        denied: IntCounterVec,
        /// Failed reads of files that are reloaded while the gateway runs, whose previous content
        /// stays valid. `file` is `api_keys`, `tls` or `jwks`, which may also be a URL.
        #[metric("batchfleet_gateway_reload_failures_total", unit = "reads", labels = ["file"])]
        reload_failures: IntCounterVec,
        /// TLS handshakes with clients that failed.
        #[metric("batchfleet_gateway_tls_handshake_failures_total", unit = "connections")]
        pub(crate) handshake_failures: IntCounter,
        /// When a certificate ends, in seconds since 1970. `certificate` is `server`, or
        /// `client_ca` for the first authority of client certificates that ends; 0 without one.
        #[metric(
            "batchfleet_gateway_certificate_expiry_timestamp_seconds",
            unit = "seconds",
            labels = ["certificate"]
        )]
        certificate_expiry: IntGaugeVec,
    }
}

impl AccessMetrics {
    /// Creates all series, with the value 0.
    pub(super) fn begin(&self) {
        for denial in Denial::iter() {
            self.denied.with_label_values(&[denial.reason()]);
        }
        for file in ["api_keys", "tls", "jwks"] {
            self.reload_failures.with_label_values(&[file]);
        }
        for certificate in ["server", "client_ca"] {
            self.certificate_expiry.with_label_values(&[certificate]);
        }
    }

    /// Counts a denied request.
    pub(crate) fn denied(&self, denial: Denial) {
        self.denied.with_label_values(&[denial.reason()]).inc();
    }

    /// The counter of failed reads of a file.
    pub(crate) fn reload_failures(&self, file: &str) -> IntCounter {
        self.reload_failures.with_label_values(&[file])
    }

    /// Sets when a certificate ends.
    pub(crate) fn certificate_expires(&self, certificate: &str, seconds: i64) {
        self.certificate_expiry.with_label_values(&[certificate]).set(seconds);
    }
}
