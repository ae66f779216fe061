//! What the parity residual of complete stripes finds, on real models and real images: which wrong devices, after how many stripes, and how often it calls for
//! a canary for nothing. `cargo test --release --test residual -- --nocapture` prints the table of docs/codes.md.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, sync::Arc};

use parityd::{
    code::{Code, Kind, RunsOn, Spec, Stacked, residual},
    data,
    health::residual::Residuals,
    job::Garbage,
    lane::spoil_row,
    model::Device,
    query::FaultDomain,
    weights::Bundle,
};
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Stripes whose outputs are at hand.
const STRIPES: usize = 2_000;
/// Lanes that hold the base model, and those that hold parity models.
const BASE: u16 = 4;
const PARITY: u16 = 2;
/// The device that goes wrong.
const WRONG: FaultDomain = FaultDomain(0);

/// Outputs of one stripe, by slot.
type Outputs = Vec<Vec<f32>>;

struct Stripes {
    code: Arc<dyn Code>,
    outputs: Vec<Outputs>,
}

impl Stripes {
    /// `models` is the code whose models are run.
    fn of(code: Arc<dyn Code>, models: &dyn Code, random: &mut ChaCha8Rng) -> Stripes {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let bundle = Bundle::load(&root.join("weights/fashion-mnist/1"), Some(models)).unwrap();
        let base = bundle.base(&Device::Cpu).unwrap();
        assert_eq!(code.runs_on(), RunsOn::ParityModel);
        let parities: Vec<_> = (0..code.r()).map(|row| bundle.parity(row, &Device::Cpu).unwrap()).collect();
        let images = data::test(&root.join("tests/data")).unwrap();
        let direct: Vec<Vec<f32>> = (0..images.count()).map(|image| base.run(images.row(image)).unwrap()).collect();
        let mut outputs = Vec::new();
        for _ in 0..STRIPES {
            let picked: Vec<usize> = (0..code.k()).map(|_| random.random_range(0..images.count())).collect();
            let rows: Vec<&[f32]> = picked.iter().map(|&image| images.row(image)).collect();
            let mut stripe: Outputs = picked.iter().map(|&image| direct[image].clone()).collect();
            for (row, parity) in parities.iter().enumerate() {
                let mut query = vec![0.0; code.query_width(rows[0].len())];
                code.encode(row, &rows, &mut query);
                stripe.push(parity.run(&query).unwrap());
            }
            outputs.push(stripe);
        }
        Stripes { code, outputs }
    }

    /// Lets stripes pass, whose members run anywhere; those of the wrong lane are spoilt once the usual is known. Gives the stripes of that lane until it is asked for a canary, and how many
    /// canaries others were asked for by then.
    fn until_found(&self, how: Option<Garbage>, stripes: usize, random: &mut ChaCha8Rng) -> (Option<usize>, usize) {
        let mut residuals = Residuals::new(usize::from(BASE + PARITY));
        let (mut of_wrong, mut others) = (0, 0);
        for number in 0..stripes {
            let mut outputs = self.outputs[random.random_range(0..self.outputs.len())].clone();
            let mut free: Vec<u16> = (0..BASE).collect();
            let mut part: Vec<FaultDomain> =
                (0..self.code.k()).map(|_| FaultDomain(free.swap_remove(random.random_range(0..free.len())))).collect();
            let mut free: Vec<u16> = (BASE..BASE + PARITY).collect();
            part.extend((0..self.code.r()).map(|_| FaultDomain(free.swap_remove(random.random_range(0..free.len())))));
            let spoilt = part.iter().position(|&lane| lane == WRONG).filter(|_| number >= 200);
            if let (Some(slot), Some(how)) = (spoilt, how) {
                of_wrong += 1;
                spoil_row(&mut outputs[slot], how);
            }
            let slices: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
            let mut decoded = Vec::new();
            let residual = residual::residual(&*self.code, &slices, &mut decoded).unwrap();
            let odd = || residual::odd(&*self.code, &slices, residual, &mut decoded).map(|slot| part[slot]);
            for lane in residuals.seen(residual, part.iter().copied(), odd) {
                if lane == WRONG && spoilt.is_some() && how.is_some() {
                    return (Some(of_wrong), others);
                }
                others += 1;
            }
        }
        (None, others)
    }
}

/// A code's name, itself, and the code whose models it runs.
type Named = (&'static str, Arc<dyn Code>, Arc<dyn Code>);

fn codes() -> Vec<Named> {
    let build = |kind, r| Spec::of(kind, 2, r).build(&[1, 28, 28], None).unwrap();
    let own = |name, code: Arc<dyn Code>| (name, Arc::clone(&code), code);
    vec![
        own("sum, r = 1", build(Kind::Sum, 1)),
        own("sum, r = 2", build(Kind::Sum, 2)),
        own("mux", build(Kind::Mux, 1)),
        own("compact", build(Kind::Compact, 1)),
        ("compact, a backup each", Arc::new(Stacked::backup()), build(Kind::Compact, 1)),
    ]
}

#[test]
fn gross_garbage_is_found_within_dozens_of_stripes_and_clean_stripes_ask_for_next_to_nothing() {
    let kinds = [
        ("1 - v", Garbage::Wrong),
        ("other weights", Garbage::Layer),
        ("x 1.25", Garbage::Scaled),
        ("top exponent bit", Garbage::BitFlip(29)),
        ("sign", Garbage::BitFlip(31)),
    ];
    println!("| code | {} | canaries for nothing in 100,000 stripes |", kinds.map(|(name, _)| name).join(" | "));
    for (name, code, models) in codes() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let stripes = Stripes::of(code, &*models, &mut random);
        let mut cells = Vec::new();
        for (kind, how) in kinds {
            let mut found: Vec<usize> = Vec::new();
            let mut missed = 0;
            for _ in 0..20 {
                match stripes.until_found(Some(how), 2_000, &mut random).0 {
                    Some(after) => found.push(after),
                    None => missed += 1,
                }
            }
            found.sort_unstable();
            if matches!(how, Garbage::Wrong | Garbage::Layer) {
                assert!(missed == 0 && found[19] <= 100, "{name}, {kind}: {found:?}, {missed} missed");
            }
            let median = found.get(found.len() / 2).map_or_else(|| "-".to_owned(), usize::to_string);
            let most = found.last().map_or_else(|| "-".to_owned(), usize::to_string);
            cells.push(if missed == 0 { format!("{median}; {most}") } else { format!("{missed} of 20 not") });
        }
        let (_, needless) = stripes.until_found(None, 100_000, &mut random);
        assert!(needless <= 60, "{name}: {needless} canaries for nothing");
        println!("| {name} | {} | {needless} |", cells.join(" | "));
    }
}
