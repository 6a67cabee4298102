//! Certificates, SNIs and authorities, as clients meet them.

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
    date_time_ymd,
};
use serde_json::{Value, json};

use crate::support::{Admin, Response};

fn pair(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn ecdsa() -> (String, String) {
    pair(&PKCS_ECDSA_P256_SHA256)
}

fn authority(change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(4000, 1, 1));
    change(&mut params);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

async fn with_certificate(snis: Value) -> (Admin, Value, (String, String)) {
    let admin = Admin::start().await;
    let (cert, key) = ecdsa();
    let made = admin.create("/certificates", json!({ "cert": cert, "key": key, "snis": snis })).await;
    (admin, made, (cert, key))
}

fn answer(response: &Response) -> (u16, Value) {
    (response.status, response.json())
}

async fn names(admin: &Admin) -> Value {
    let mut names: Vec<_> = admin.get("/snis").await.json()["data"].as_array().unwrap().clone();
    names.sort_by_key(|sni| sni["name"].as_str().unwrap().to_owned());
    names.into_iter().map(|sni| sni["name"].clone()).collect()
}

#[tokio::test]
async fn snis_are_made_replaced_and_removed_with_their_certificate() {
    let (admin, made, (cert, key)) = with_certificate(json!(["b.com", "a.com"])).await;
    let id = made["id"].as_str().unwrap();
    assert_eq!(made["snis"], json!(["a.com", "b.com"]), "sorted");
    assert_eq!(
        (&made["cert_alt"], &made["key_alt"], &made["tags"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(admin.get("/certificates/a.com").await.json(), made, "by the name of an SNI");
    assert_eq!(admin.get("/certificates").await.json()["data"], json!([made]));
    let sni = admin.get("/snis/a.com").await.json();
    assert_eq!(sni["certificate"], json!({ "id": id }));
    assert_eq!(admin.get("/certificates/b.com/snis/a.com").await.json(), sni);

    let untouched = admin.json("PATCH", "/certificates/a.com", &json!({ "tags": ["x"] })).await.json();
    assert_eq!(untouched["snis"], json!(["a.com", "b.com"]));
    let replaced =
        admin.json("PATCH", "/certificates/a.com", &json!({ "snis": ["c.com", "a.com"] })).await.json();
    assert_eq!(replaced["snis"], json!(["a.com", "c.com"]));
    assert_eq!(admin.get("/snis/a.com").await.json(), sni, "one that stays is the same");
    assert_eq!(names(&admin).await, json!(["a.com", "c.com"]));

    let nested = admin.create("/certificates/c.com/snis", json!({ "name": "*.b.com" })).await;
    assert_eq!(nested["certificate"]["id"], id);
    assert_eq!(
        admin.get(&format!("/certificates/{id}")).await.json()["snis"],
        json!(["*.b.com", "a.com", "c.com"])
    );
    assert_eq!(admin.send("DELETE", "/snis/a.com", &[], "").await.status, 204);
    let renamed = admin.json("PATCH", "/snis/c.com", &json!({ "name": "d.com" })).await;
    assert_eq!(renamed.status, 200, "{}", renamed.text());
    assert_eq!(admin.get("/certificates/d.com").await.json()["snis"], json!(["*.b.com", "d.com"]));

    let none = admin.json("PATCH", "/certificates/d.com", &json!({ "snis": null })).await.json();
    assert_eq!(none["snis"], json!([]));
    assert_eq!(names(&admin).await, json!([]));
    let body = |snis: Value| json!({ "cert": cert, "key": key, "snis": snis });
    let put = admin.json("PUT", "/certificates/e.com", &body(json!(["f.com"]))).await;
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(put.json()["snis"], json!(["e.com", "f.com"]), "made, with the name of the path");
    assert_ne!(put.json()["id"], id);
    let put = admin.json("PUT", "/certificates/f.com", &json!({ "cert": cert, "key": key })).await;
    assert_eq!(put.json()["snis"], json!([]), "PUT without a list removes all");
    let by_id = admin.json("PUT", &format!("/certificates/{id}"), &body(json!(["g.com"]))).await;
    assert_eq!((by_id.status, &by_id.json()["snis"]), (200, &json!(["g.com"])));
    assert_eq!(admin.send("DELETE", "/certificates/g.com", &[], "").await.status, 204);
    assert_eq!(names(&admin).await, json!([]), "its SNIs go with it");
    assert_eq!(
        admin.send("DELETE", &format!("/certificates/{id}"), &[], "").await.status,
        204,
        "as often as one likes"
    );
}

#[tokio::test]
async fn forms_and_multipart_bodies_bring_certificates() {
    let admin = Admin::start().await;
    let (cert, key) = ecdsa();
    let part = |name: &str, value: &str| {
        format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let body = format!("{}{}{}--x--\r\n", part("cert", &cert), part("key", &key), part("snis[]", "a.com"));
    let made = admin
        .send("POST", "/certificates", &[("Content-Type", "multipart/form-data; boundary=x")], &body)
        .await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.json()["snis"], json!(["a.com"]));
    let form = admin.form("PATCH", "/certificates/a.com", "snis[]=b.com&snis[]=c.com").await;
    assert_eq!(form.json()["snis"], json!(["b.com", "c.com"]));
}

#[tokio::test]
async fn what_is_not_there_is_said_as_the_reference_says_it() {
    let (admin, _, _) = with_certificate(json!(["a.com"])).await;
    let unknown = "10000000-0000-4000-8000-000000000009";
    let plain = json!({ "message": "Not found" });
    let no_sni = json!({ "message": "SNI not found" });
    let no_id = json!({
        "code": 6, "name": "not found", "fields": { "id": unknown },
        "message": format!("could not find the entity with primary key '{{id=\"{unknown}\"}}'"),
    });
    for (method, path, want) in [
        ("GET", "/certificates/b.com".to_owned(), &no_sni),
        ("PATCH", "/certificates/b.com".to_owned(), &no_sni),
        ("DELETE", "/certificates/b.com".to_owned(), &no_sni),
        ("GET", "/certificates/b.com/snis".to_owned(), &no_sni),
        ("GET", "/certificates/b.com/snis/a.com".to_owned(), &no_sni),
        ("GET", format!("/certificates/{unknown}"), &no_id),
        ("PATCH", format!("/certificates/{unknown}"), &no_id),
        ("GET", format!("/certificates/{unknown}/snis"), &plain),
        ("GET", "/certificates/a.com/snis/b.com".to_owned(), &plain),
        ("GET", "/snis/b.com".to_owned(), &plain),
        ("GET", "/snis/a.com/certificate".to_owned(), &plain),
        ("GET", format!("/ca_certificates/{unknown}"), &plain),
    ] {
        let response = if method == "PATCH" {
            admin.json(method, &path, &json!({ "tags": ["x"] })).await
        } else {
            admin.send(method, &path, &[], "").await
        };
        assert_eq!(answer(&response), (404, want.clone()), "{method} {path}");
    }
    let post = admin.json("POST", "/certificates/b.com/snis", &json!({ "name": "c.com" })).await;
    assert_eq!(answer(&post), (404, no_sni));
    let name = admin.get("/certificates/a.*.c").await.json();
    assert_eq!((&name["code"], &name["name"]), (&json!(10), &json!("invalid unique name")));
    assert_eq!(admin.get("/ca_certificates/x").await.json()["code"], 1);
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_refused_without_their_keys() {
    let (admin, made, (cert, key)) = with_certificate(json!(["a.com"])).await;
    let (other, other_key) = ecdsa();
    let (rsa, rsa_key) = pair(&PKCS_RSA_SHA256);
    let id = made["id"].as_str().unwrap();
    let taken = format!("a.com already associated with existing certificate '{id}'");
    let same = "certificate and alternative certificate need to have different type (e.g. RSA and ECDSA), \
                the provided certificates were both of the same type";
    let of = |body: Value| {
        let mut whole = json!({ "cert": cert, "key": key });
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        whole
    };
    let entity = |text: &str| json!({ "@entity": [text] });
    for (name, body, fields) in [
        ("no pair", of(json!({ "key": other_key })), entity("certificate does not match key")),
        (
            "no second pair",
            of(json!({ "cert_alt": rsa, "key_alt": other_key })),
            entity("alternative certificate does not match key"),
        ),
        (
            "half a pair",
            of(json!({ "cert_alt": rsa })),
            entity("all or none of these fields must be set: 'cert_alt', 'key_alt'"),
        ),
        ("two of a type", of(json!({ "cert_alt": other, "key_alt": other_key })), entity(same)),
        (
            "no certificate",
            of(json!({ "cert": "x" })),
            json!({ "cert": "invalid certificate: no PEM block of a certificate" }),
        ),
        ("no key", of(json!({ "key": "x" })), json!({ "key": "invalid key: no PEM block of a private key" })),
        ("twice", of(json!({ "snis": ["b.com", "b.com"] })), json!({ "snis": "b.com is duplicated" })),
        ("another one's", of(json!({ "snis": ["b.com", "a.com"] })), json!({ "snis": taken })),
        (
            "no name",
            of(json!({ "snis": ["b.com", "1.2.3.4"] })),
            json!({ "snis": [null, "must not be an IP"] }),
        ),
    ] {
        let refused = admin.json("POST", "/certificates", &body).await;
        assert_eq!((refused.status, &refused.json()["fields"]), (400, &fields), "{name}: {}", refused.text());
        assert_eq!(refused.json()["code"], 2, "{name}");
        assert!(!refused.text().contains("PRIVATE KEY"), "{name}");
    }
    assert_eq!(names(&admin).await, json!(["a.com"]), "nothing is left of what was refused");
    let both = admin.create("/certificates", of(json!({ "cert_alt": rsa, "key_alt": rsa_key }))).await;
    assert_eq!((&both["cert_alt"], &both["key_alt"]), (&json!(rsa), &json!(rsa_key)));
    let duplicate =
        admin.json("POST", "/snis", &json!({ "name": "a.com", "certificate": both["id"].clone() })).await;
    assert_eq!(duplicate.status, 400, "{}", duplicate.text());
    let duplicate =
        admin.json("POST", "/snis", &json!({ "name": "a.com", "certificate": { "id": both["id"] } })).await;
    assert_eq!((duplicate.status, &duplicate.json()["fields"]), (409, &json!({ "name": "a.com" })));
    let unchecked = admin.json("PATCH", &format!("/certificates/{id}"), &json!({ "key": other_key })).await;
    assert_eq!(unchecked.json()["fields"], entity("certificate does not match key"));
}

#[tokio::test]
async fn a_certificate_in_use_stays() {
    let (admin, made, _) = with_certificate(json!(["a.com"])).await;
    let reference = json!({ "id": made["id"] });
    let service = json!({ "name": "s", "url": "https://u.test", "client_certificate": reference });
    admin.create("/services", service).await;
    admin.create("/upstreams", json!({ "name": "u.test", "client_certificate": reference })).await;
    assert_eq!(admin.get("/services/s/client_certificate").await.json(), made);
    assert_eq!(admin.get("/upstreams/u.test/client_certificate").await.json(), made);
    assert_eq!(admin.get("/certificates/a.com/services").await.json()["data"][0]["name"], "s");
    assert_eq!(admin.get("/certificates/a.com/upstreams/u.test").await.json()["name"], "u.test");
    for (child, path) in [("services", "/services/s"), ("upstreams", "/upstreams/u.test")] {
        let refused = admin.send("DELETE", "/certificates/a.com", &[], "").await;
        let want = json!({
            "code": 4, "name": "foreign key violation", "fields": { "@referenced_by": child },
            "message": format!("an existing '{child}' entity references this 'certificates' entity"),
        });
        assert_eq!(answer(&refused), (400, want));
        assert_eq!(names(&admin).await, json!(["a.com"]));
        admin.send("DELETE", path, &[], "").await;
    }
    assert_eq!(admin.send("DELETE", "/certificates/a.com", &[], "").await.status, 204);
    let dangling = admin
        .json("POST", "/services", &json!({ "url": "https://u.test", "client_certificate": reference }))
        .await;
    let id = made["id"].as_str().unwrap();
    let text =
        format!("the foreign key '{{id=\"{id}\"}}' does not reference an existing 'certificates' entity.");
    assert_eq!((dangling.status, &dangling.json()["message"]), (400, &json!(text)));
}

#[tokio::test]
async fn authorities_are_single_certificates_that_may_sign() {
    let admin = Admin::start().await;
    let good = authority(|_| {});
    let made = admin.create("/ca_certificates", json!({ "cert": good, "cert_digest": "mine" })).await;
    let digest = made["cert_digest"].as_str().unwrap();
    assert_eq!(digest.len(), 64, "computed, whatever was sent");
    let again = admin.json("POST", "/ca_certificates", &json!({ "cert": good })).await;
    assert_eq!((again.status, &again.json()["fields"]), (409, &json!({ "cert_digest": digest })));
    for (name, cert, want) in [
        ("two", good.repeat(2), "please submit only one certificate at a time"),
        (
            "expired",
            authority(|params| params.not_after = date_time_ymd(2001, 1, 1)),
            "certificate expired, \"Not After\" time is in the past",
        ),
        (
            "a leaf",
            authority(|params| params.is_ca = IsCa::NoCa),
            "certificate does not appear to be a CA because it is missing the \"CA\" basic constraint",
        ),
        ("nothing", "x".to_owned(), "invalid certificate: no PEM block of a certificate"),
    ] {
        for path in ["/ca_certificates", "/schemas/ca_certificates/validate"] {
            let refused = admin.json("POST", path, &json!({ "cert": cert })).await;
            assert_eq!(
                (refused.status, &refused.json()["fields"]),
                (400, &json!({ "@entity": [want] })),
                "{name} {path}"
            );
        }
    }
    let other = authority(|_| {});
    let path = format!("/ca_certificates/{}", made["id"].as_str().unwrap());
    let patched = admin.json("PATCH", &path, &json!({ "cert": other })).await.json();
    assert_ne!(patched["cert_digest"], digest);
    let tagged = admin.json("PATCH", &path, &json!({ "tags": ["x"] })).await.json();
    assert_eq!(tagged["cert_digest"], patched["cert_digest"]);

    let unknown = "10000000-0000-4000-8000-000000000009";
    let service =
        json!({ "name": "s", "url": "https://u.test", "ca_certificates": [unknown, made["id"], made["id"]] });
    let service = admin.create("/services", service).await;
    let refused = admin.send("DELETE", &path, &[], "").await;
    let (id, by) = (made["id"].as_str().unwrap(), service["id"].as_str().unwrap());
    let want = json!({
        "code": 19, "name": "referenced by others",
        "message": format!("ca certificate {id} is still referenced by services (id = {by})"),
    });
    assert_eq!(answer(&refused), (400, want));
    admin.json("PATCH", "/services/s", &json!({ "ca_certificates": [unknown] })).await;
    assert_eq!(admin.send("DELETE", &path, &[], "").await.status, 204);
}

#[tokio::test]
async fn a_declarative_config_has_snis_below_their_certificate() {
    let (admin, _, (cert, key)) = with_certificate(json!(["old.com"])).await;
    let document = json!({
        "_format_version": "3.0",
        "certificates": [{ "cert": cert, "key": key, "snis": [{ "name": "b.com" }, { "name": "a.com", "tags": ["x"] }] }],
        "ca_certificates": [{ "cert": authority(|_| {}) }],
    });
    let applied = admin.json("POST", "/config", &document).await;
    assert!((200..300).contains(&applied.status), "{}", applied.text());
    assert_eq!(names(&admin).await, json!(["a.com", "b.com"]));
    let made = admin.get("/certificates/a.com").await.json();
    assert_eq!(made["snis"], json!(["a.com", "b.com"]));
    let again = admin.json("POST", "/config", &document).await;
    assert!((200..300).contains(&again.status), "{}", again.text());
    assert_eq!(admin.get("/certificates/a.com").await.json(), made, "the same document is the same config");
}
