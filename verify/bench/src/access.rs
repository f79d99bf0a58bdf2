//! The cost of HTTPS, of API keys and of tokens, on an echo.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use batchfleet_loadgen::{HttpAnswer, Pace, Prepared, Workload};
use batchfleet_testkit::{Certificates, FleetPlan, TokenIssuer};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    echo::{Marked, repository},
    rig::{BenchLoad, Measurement, Rig},
    table::{heading, line, median},
};

const ROUNDS: usize = 5;
/// Bytes of a request.
const SIZE: usize = 256;
const ISSUER: &str = "https://id.example";
/// More tokens than a gateway remembers, so that it verifies the signature of each.
const NEW_TOKENS: usize = 20_000;
/// SHA-256 of the API key `secret`.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// A measured case: the rig, and what each request presents.
struct Case {
    name: &'static str,
    rig: usize,
    load: BenchLoad,
    /// The case that lacks only what this case measures.
    without: usize,
}

/// Prints the CPU of each case, and the difference in the gateway to the case without.
pub(crate) async fn bench(lasts: Duration) -> Result<()> {
    let (models, files) = (repository()?, TempDir::new()?);
    let (certificates, issuer) = (Certificates::new()?, TokenIssuer::new("bench")?);
    let rigs = rigs(models.path(), files.path(), &certificates, &issuer).await?;
    let cases = cases(&issuer, lasts)?;
    heading("echo, 256 B binary, 100 users");
    let mut costs = vec![Vec::new(); cases.len()];
    for round in 0..ROUNDS {
        for turn in 0..cases.len() {
            let at = (round + turn) % cases.len();
            let measured: Measurement = rigs[cases[at].rig].measure(&cases[at].load).await?;
            line(cases[at].name, &measured);
            costs[at].push(measured.cpu.gateway);
        }
    }
    let costs: Vec<f64> = costs.into_iter().map(median).collect();
    println!();
    for (case, cost) in cases.iter().zip(&costs).skip(1) {
        let more = cost - costs[case.without];
        let percent = more / costs[case.without] * 100.0;
        let (name, without) = (case.name, cases[case.without].name);
        println!(
            "{name} over {without}: {more:+.1} µs of CPU per request in the gateway ({percent:+.0} %)"
        );
    }
    Ok(())
}

/// A gateway without access control, one with API keys and tokens, and one with HTTPS.
async fn rigs(
    models: &Path,
    files: &Path,
    certificates: &Certificates,
    issuer: &TokenIssuer,
) -> Result<[Rig; 3]> {
    let (keys, jwks) = (files.join("keys"), files.join("jwks"));
    fs::write(&keys, format!("{SECRET} bench\n"))?;
    fs::write(&jwks, json!({ "keys": [issuer.public_key()] }).to_string())?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
    let (keys, jwks) = (text(&keys)?, text(&jwks)?);
    let guarded = [
        ["--api-keys", &keys],
        ["--jwt-jwks-file", &jwks],
        ["--jwt-issuer", ISSUER],
        ["--jwt-audience", "batchfleet"],
    ];
    let (certificate, key) = (text(&certificates.certificate())?, text(&certificates.key())?);
    let secure = ["--tls-cert", &certificate, "--tls-key", &key];
    let plan = |gateway_flags| FleetPlan {
        serving: Some((models, "echo")),
        gateway_flags,
        ..FleetPlan::default()
    };
    Ok([
        Rig::start("open", plan(&[])).await?,
        Rig::start("guarded", plan(guarded.as_flattened())).await?,
        Rig::start("https", plan(&secure)).await?.trusting(&certificates.ca()),
    ])
}

fn cases(issuer: &TokenIssuer, lasts: Duration) -> Result<Vec<Case>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let token = |name: usize| {
        issuer.token(&json!({
            "iss": ISSUER, "aud": "batchfleet", "sub": name.to_string(), "exp": now + 3600
        }))
    };
    let bearer = |name| Ok(format!("Bearer {}", token(name)?));
    let new = (0..NEW_TOKENS).map(bearer).collect::<Result<Vec<_>>>()?;
    let known = vec![bearer(NEW_TOKENS)?];
    let key = vec!["secret".to_owned()];
    let load = |header, values, close| -> Result<BenchLoad> {
        let workload = Arc::new(Presenting { echo: Marked::new(SIZE)?, header, values, close });
        Ok(BenchLoad { workload, users: 100, pace: Pace::Closed, lasts })
    };
    let case = |name, rig, load, without| Case { name, rig, load, without };
    Ok(vec![
        case("HTTP", 0, load("x-api-key", Vec::new(), false)?, 0),
        case("API key", 1, load("x-api-key", key, false)?, 0),
        case("known token", 1, load("authorization", known, false)?, 0),
        case("new token (Ed25519)", 1, load("authorization", new, false)?, 2),
        case("HTTPS", 2, load("x-api-key", Vec::new(), false)?, 0),
        case("HTTP, new connection", 0, load("x-api-key", Vec::new(), true)?, 0),
        case("HTTPS, new connection", 2, load("x-api-key", Vec::new(), true)?, 5),
    ])
}

/// Requests that present one of `values` in a header, in turn.
struct Presenting {
    echo: Marked,
    header: &'static str,
    values: Vec<String>,
    /// Whether each request has a connection of its own.
    close: bool,
}

impl Workload for Presenting {
    fn request(&self, index: u64) -> Prepared {
        let mut request = self.echo.request(index);
        let turn = usize::try_from(index).unwrap_or(0).checked_rem(self.values.len());
        if let Some(Ok(value)) = turn.map(|turn| self.values[turn].parse()) {
            request.headers.insert(self.header, value);
        }
        if self.close
            && let Ok(close) = "close".parse()
        {
            request.headers.insert("connection", close);
        }
        request
    }

    fn check(&self, index: u64, answer: &HttpAnswer) -> Result<(), String> {
        self.echo.check(index, answer)
    }
}
