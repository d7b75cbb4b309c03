//! Nests that stand together: one fork and join runs them all.
//!
//! An optimizer's step is a nest for each parameter, most of them too small for several threads and none reading another. What
//! is one step has buffers of its own: lifetimes count steps.

use super::{Action, PlacedNest, Step};

/// Makes nests that follow each other one step where none reads what another one writes.
pub(super) fn together(steps: Vec<Step>) -> Vec<Step> {
    let mut out: Vec<Step> = vec![];
    for step in steps {
        match out.last_mut() {
            Some(last) if is_nest(last) && is_nest(&step) && !step.reads.iter().any(|v| last.writes.contains(v)) => {
                append(last, step);
            }
            _ => out.push(step),
        }
    }
    out
}

fn is_nest(step: &Step) -> bool {
    matches!(step.action, Action::Nest(_) | Action::Nests(_))
}

fn append(last: &mut Step, step: Step) {
    let mut list = nests(std::mem::replace(&mut last.action, Action::Nests(vec![])), last.place);
    list.extend(nests(step.action, step.place));
    last.action = Action::Nests(list);
    last.reads.extend(step.reads);
    last.writes.extend(step.writes);
}

fn nests(action: Action, place: Option<crate::entity::PlaceId>) -> Vec<PlacedNest> {
    match action {
        Action::Nest(nest) => vec![PlacedNest { nest: *nest, place }],
        Action::Nests(list) => list,
        _ => vec![],
    }
}
