//! A test's config.json: what every test starts from, and what one test says beyond it. It never checks anything:
//! that is the daemon's task.

use serde_json::Value;

/// Lays `more` over `base`: objects key by key, anything else replaces, `null` removes (as in RFC 7396).
pub fn merge(base: &mut Value, more: Value) {
    let (Value::Object(target), Value::Object(changes)) = (&mut *base, &more) else {
        *base = more;
        return;
    };
    for (key, value) in changes {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value.clone());
        }
    }
}
