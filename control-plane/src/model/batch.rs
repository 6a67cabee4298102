//! Several writes as one: each sees what those before it did, and all are made or none.

use super::{Answer, Change, Condition, Config, Context, Effect, Refusal};

impl Config {
    /// The config after all of `changes`, in their order.
    ///
    /// # Errors
    /// When one is refused, with its place; `self` is what stays in force.
    pub fn apply_all(
        &self,
        changes: Vec<(Change, Condition)>,
        context: &mut Context<'_>,
    ) -> Result<(Self, Effect), Refusal> {
        let (mut config, mut answers, mut mutations) = (self.clone(), Vec::new(), Vec::new());
        for (item, (change, condition)) in changes.into_iter().enumerate() {
            let (next, effect) = config
                .apply_if(change, &condition, context)
                .map_err(|refusal| Refusal::InBatch { item, refusal: Box::new(refusal) })?;
            config = next;
            answers.push(effect.answer);
            mutations.extend(effect.mutations);
        }
        Ok((config, Effect { answer: Answer::Each(answers), mutations }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::model::{Key, Kind, Op, PluginName};

    fn apply(config: &Config, changes: Vec<(Change, Condition)>) -> Result<(Config, Effect), Refusal> {
        let plugins = PluginName::ENFORCED;
        config.apply_all(changes, &mut Context { now_ms: 1_000, new_id: &mut Uuid::new_v4, plugins })
    }

    fn create(kind: Kind, body: Value) -> (Change, Condition) {
        let op = Op::Create(serde_json::from_value(body).unwrap());
        (Change { kind, op, parent: None }, Condition::default())
    }

    #[test]
    fn each_sees_those_before_it_and_an_error_undoes_them() {
        let service = create(Kind::Service, json!({ "name": "s", "host": "h" }));
        let route = create(Kind::Route, json!({ "name": "r", "paths": ["/"], "service": { "name": "s" } }));
        let (config, effect) = apply(&Config::default(), vec![service.clone(), route.clone()]).unwrap();
        let Answer::Each(answers) = effect.answer else { panic!("one answer each") };
        assert_eq!((answers.len(), effect.mutations.len(), config.len()), (2, 2, 2));
        // What came of it is what a replay makes of its mutations.
        let mut replayed = Config::default();
        effect.mutations.iter().for_each(|mutation| replayed.restore(mutation));
        assert_eq!(replayed, config);

        let refused = apply(&Config::default(), vec![service, route.clone(), route]).unwrap_err();
        let Refusal::InBatch { item, refusal } = &refused else { panic!("{refused:?}") };
        assert_eq!((*item, refusal.status(), refused.status()), (2, 409, 409));
        assert_eq!(refused.to_json()["item"], 2);
    }

    #[test]
    fn an_entity_may_be_written_more_than_once() {
        let key = || Key::Name("s".to_owned());
        let patch = Op::Patch(key(), serde_json::from_value(json!({ "retries": 1 })).unwrap());
        let of = |op| (Change { kind: Kind::Service, op, parent: None }, Condition::default());
        let create = create(Kind::Service, json!({ "name": "s", "host": "h" }));
        let (config, _) = apply(&Config::default(), vec![create.clone(), of(patch)]).unwrap();
        assert_eq!(config.get(Kind::Service, &key()).unwrap().body()["retries"], 1);
        let (config, _) =
            apply(&Config::default(), vec![create.clone(), of(Op::Delete(key())), create]).unwrap();
        assert_eq!(config.len(), 1);
    }
}
