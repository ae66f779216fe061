//! The running averages of batch norm: parameters that are counted, not learned.
//!
//! A batch runs in parts, and each is normed by what its own rows have. Once a step the averages take up a tenth of the parts' mean, with the
//! variance unbiased, as `PyTorch` does with a batch; in the order of the parts, so that the outcome is the same however many threads ran them.

use candle_core::{Error, Result, Tensor, Var};

use crate::model::Seen;

/// The share of what was seen last.
const MOMENTUM: f64 = 0.1;

/// Moves the running averages among `variables` towards what the parts of a batch saw, each with its share.
pub(super) fn follow(variables: &[(String, Var)], parts: &[(Vec<Seen>, f64)]) -> Result<()> {
    let Some((first, _)) = parts.first() else { return Ok(()) };
    for (number, Seen { name, .. }) in first.iter().enumerate() {
        let of_parts = || parts.iter().map(|(seen, share)| (&seen[number], *share));
        move_to(
            variables,
            &format!("{name}.running_mean"),
            &mean(of_parts().map(|(seen, share)| (&seen.mean, share))),
        )?;
        let variances = of_parts().map(|(seen, share)| (&seen.variance, share));
        move_to(variables, &format!("{name}.running_var"), &mean(variances))?;
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "f32 is the averages' precision")]
fn mean<'a>(parts: impl Iterator<Item = (&'a Vec<f32>, f64)>) -> Vec<f32> {
    let mut sum: Vec<f32> = Vec::new();
    for (values, share) in parts {
        sum.resize(values.len(), 0.0);
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value * share as f32);
    }
    sum
}

fn move_to(variables: &[(String, Var)], name: &str, towards: &[f32]) -> Result<()> {
    let found = variables.iter().find(|(found, _)| found == name);
    let (_, average) = found.ok_or_else(|| Error::Msg(format!("there is no running average `{name}`")))?;
    mix(average, &Tensor::from_slice(towards, average.shape(), average.device())?, MOMENTUM)
}

/// Moves `average` towards `values` by `share` of the way.
pub(super) fn mix(average: &Var, towards: &Tensor, share: f64) -> Result<()> {
    let mixed = ((average.detach() * (1.0 - share))? + (towards * share)?)?;
    average.set(&mixed)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn averages_move_by_a_tenth_to_the_mean_of_the_parts() {
        let variable = |name: &str, value: f32| (name.to_owned(), Var::new(&[value], &Device::Cpu).unwrap());
        let variables = [variable("a.running_mean", 0.0), variable("a.weight", 3.0), variable("a.running_var", 1.0)];
        let seen = |mean, variance| vec![Seen { name: "a".to_owned(), mean: vec![mean], variance: vec![variance] }];
        follow(&variables, &[(seen(1.0, 2.0), 0.75), (seen(5.0, 6.0), 0.25)]).unwrap();
        let found = variables.map(|(_, variable)| variable.to_vec1::<f32>().unwrap()[0]);
        for (found, expected) in found.into_iter().zip([0.2, 3.0, 1.2]) {
            assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }
}
