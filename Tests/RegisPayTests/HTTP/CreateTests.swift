import Testing

@testable import RegisPay

private let noAmount = #""amount":["Amount must not be empty","Amount must be a postive value"]"#
private let negative = #""amount":["Amount must be a postive value"]"#
private let noCurrency =
  #""currency":["Currency must not be empty","Please use one of these suppored currencies: GBP, EUR, USD"]"#
private let unsupported = #""currency":["Please use one of these suppored currencies: GBP, EUR, USD"]"#

private func refusal(_ errors: String...) -> String {
  #"{"statusCode":400,"message":"One or more errors occurred!","errors":{"# + errors.joined(separator: ",") + "}}"
}

@Suite("Creating a payment over HTTP")
struct CreateTests {
  @Test("every body that the reference refuses is refused with the reference's exact response")
  func validation() async throws {
    let cases: [(String, String)] = [
      (#"{}"#, refusal(noAmount, noCurrency)),
      (#"{"amount":null,"currency":null}"#, refusal(noAmount, noCurrency)),
      (#"{"amount":0,"currency":""}"#, refusal(noAmount, noCurrency)),
      (#"{"amount":0.00,"currency":"   "}"#, refusal(noAmount, noCurrency)),
      (#"{"amount":-0,"currency":"GBP"}"#, refusal(noAmount)),
      (#"{"amount":0e5,"currency":"GBP"}"#, refusal(noAmount)),
      (#"{"currency":"GBP"}"#, refusal(noAmount)),
      (#"{"amount":null,"currency":"EUR"}"#, refusal(noAmount)),
      (#"{"amount":-1,"currency":"GBP"}"#, refusal(negative)),
      (#"{"amount":-0.001,"currency":"GBP"}"#, refusal(negative)),
      (#"{"amount":-1e400,"currency":"USD"}"#, refusal(negative)),
      (#"{"amount":1}"#, refusal(noCurrency)),
      (#"{"amount":1,"currency":null}"#, refusal(noCurrency)),
      (#"{"amount":1,"currency":""}"#, refusal(noCurrency)),
      (#"{"amount":1,"currency":"JPY"}"#, refusal(unsupported)),
      (#"{"amount":1,"currency":"gbp"}"#, refusal(unsupported)),
      (#"{"amount":1,"currency":"GBP "}"#, refusal(unsupported)),
      (#"{"amount":-1,"currency":"JPY"}"#, refusal(negative, unsupported)),
      (#"{"amount":12.345,"currency":"JPY"}"#, refusal(unsupported)),
      (#"{"currency":"JPY","amount":0}"#, refusal(noAmount, unsupported)),
      (#"{"Amount":1,"Currency":"GBP"}"#, refusal(noAmount, noCurrency)),
    ]
    try await TestServer.run { server in
      for (body, expected) in cases {
        let response = try await server.create(body)
        #expect(response.status == 400, "\(body)")
        #expect(response.text == expected, "\(body)")
        #expect(response.headers["content-type"]?.hasPrefix("application/json") == true)
      }
      let page = try await server.get("/api/v1/payments").json()
      #expect(page["payments"] == .array([]), "nothing was made of what was refused")
    }
  }

  @Test("what the reference has no message for is refused with one that says what is wrong")
  func ourRefusals() async throws {
    let cases: [(String, String)] = [
      (#"{"amount":12.345,"currency":"GBP"}"#, #""amount":["Amount has 3 decimals, GBP allows 2"]"#),
      (#"{"amount":1e-400,"currency":"EUR"}"#, #""amount":["Amount has 400 decimals, EUR allows 2"]"#),
      (
        #"{"amount":1e400,"currency":"GBP"}"#,
        #""amount":["Amount is too large, at most 92233720368547758.07 GBP is possible"]"#
      ),
      (
        #"{"amount":92233720368547758.08,"currency":"GBP"}"#,
        #""amount":["Amount is too large, at most 92233720368547758.07 GBP is possible"]"#
      ),
      (#"{"amount":"12.34","currency":"GBP"}"#, #""amount":["Amount must be a number, such as 12.34"]"#),
      (#"{"amount":[1],"currency":"GBP"}"#, #""amount":["Amount must be a number, such as 12.34"]"#),
      (#"{"amount":true,"currency":"GBP"}"#, #""amount":["Amount must be a number, such as 12.34"]"#),
      (#"{"amount":1,"currency":826}"#, #""currency":["Currency must be a string, such as \"GBP\""]"#),
      ("[]", #""body":["The body must be a JSON object"]"#),
      ("null", #""body":["The body must be a JSON object"]"#),
      ("12", #""body":["The body must be a JSON object"]"#),
      ("", #""body":["The body is not valid JSON at byte 0: the input ends where a value is expected"]"#),
      (
        #"{"amount":1,"#,
        #""body":["The body is not valid JSON at byte 12: a key in quotation marks is expected"]"#
      ),
      (
        #"{"amount":1,"currency":"GBP","amount":2}"#,
        #""body":["The body is not valid JSON at byte 29: the key \"amount\" occurs twice"]"#
      ),
      (#"{"amount":01}"#, #""body":["The body is not valid JSON at byte 11: a comma or a closing brace is expected"]"#),
      (#"{"amount":NaN}"#, #""body":["The body is not valid JSON at byte 10: a value is expected"]"#),
    ]
    try await TestServer.run { server in
      for (body, error) in cases {
        let response = try await server.create(body)
        #expect(response.status == 400, "\(body)")
        #expect(response.text == refusal(error), "\(body)")
      }
    }
  }

  @Test("the versioned route says the same as a problem")
  func problems() async throws {
    try await TestServer.run { server in
      let response = try await server.create(#"{"amount":-1}"#, path: "/api/v1/payments")
      #expect(response.status == 400)
      #expect(response.headers["content-type"] == "application/problem+json")
      let json = try response.json()
      #expect(json["type"] == "/problems/validation")
      #expect(json["status"] == .number("400"))
      #expect(json["errors"]?["amount"] == .array(["Amount must be a postive value"]))
    }
  }

  @Test("bytes that are no text, a bomb of brackets and a long key are refused, not died of")
  func hostile() async throws {
    let bodies: [[UInt8]] = [
      [0xFF, 0xFE], Array(#"{"currency":"\#u{0}"}"#.utf8),
      Array("{\"currency\":\"".utf8) + [0xC0, 0xAF] + Array("\"}".utf8),
      Array(String(repeating: "[", count: 60_000).utf8), Array(String(repeating: "{\"a\":", count: 10_000).utf8),
      Array("{\"\(String(repeating: "k", count: 60_000))\":1}".utf8),
      Array("{\"amount\":\(String(repeating: "9", count: 60_000)),\"currency\":\"GBP\"}".utf8),
      Array("{\"amount\":1e\(String(repeating: "9", count: 60_000)),\"currency\":\"GBP\"}".utf8),
      Array("{\"amount\":1e-\(String(repeating: "9", count: 60_000)),\"currency\":\"GBP\"}".utf8),
    ]
    try await TestServer.run { server in
      for body in bodies {
        let response = try await server.send(
          "POST", "/api/payment/create", headers: [("Content-Type", "application/json")], body: body)
        #expect(response.status == 400, "\(String(decoding: body.prefix(40), as: UTF8.self))")
        #expect(response.text.hasPrefix(#"{"statusCode":400,"#))
      }
    }
  }

  @Test(
    "another content type than JSON in UTF-8 is refused with 415",
    arguments: [
      nil, "", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "application",
      "json", "application/jsonx",
    ])
  func contentTypes(_ contentType: String?) async throws {
    try await TestServer.run { server in
      for path in ["/api/payment/create", "/api/v1/payments"] {
        let response = try await server.create(#"{"amount":1,"currency":"GBP"}"#, path: path, contentType: contentType)
        #expect(response.status == 415)
        #expect(try response.json()["detail"]?.text?.contains("application/json") == true)
      }
    }
  }

  @Test(
    "JSON in UTF-8 is taken however its content type is written",
    arguments: [
      "application/json", "Application/JSON", "application/json;charset=utf-8", "application/json; charset=\"UTF-8\"",
      "application/vnd.x+json",
    ])
  func acceptedContentTypes(_ contentType: String) async throws {
    try await TestServer.run { server in
      let response = try await server.create(#"{"amount":1,"currency":"GBP"}"#, contentType: contentType)
      #expect(response.status == 200)
    }
  }

  @Test("a body of two MiB is refused with 413, also without a Content-Length")
  func tooLarge() async throws {
    let body = Array("{\"x\":\"\(String(repeating: "x", count: 2 << 20))\",\"amount\":1,\"currency\":\"GBP\"}".utf8)
    try await TestServer.run { server in
      let response = try await server.send(
        "POST", "/api/payment/create", headers: [("Content-Type", "application/json")], body: body)
      #expect(response.status == 413)
      #expect(try response.json()["detail"]?.text?.contains("65536") == true)
      #expect(try await server.get("/alive").status == 200)
    }
  }

  @Test(
    "an amount is taken by value, and unknown members are passed over",
    arguments: [
      ("12.34", "12.34"), ("1e2", "100.00"), ("0.10", "0.10"), ("1234e-2", "12.34"), ("12.3400", "12.34"),
      ("92233720368547758.07", "92233720368547758.07"),
    ])
  func accepted(_ amount: String, _ shown: String) async throws {
    try await TestServer.run { server in
      let response = try await server.create(
        #" {"x":{"amount":[null]},"currency":"EUR","amount":\#(amount) } "#)
      #expect(response.status == 200)
      let id = try #require(try response.json()["paymentId"]?.text)
      #expect(response.text == #"{"paymentId":"\#(id)"}"#)
      let payment = try await server.get("/api/v1/payments/\(id)").json()
      #expect(payment["amount"] == .number(shown))
      #expect(payment["currency"] == "EUR")
    }
  }
}
