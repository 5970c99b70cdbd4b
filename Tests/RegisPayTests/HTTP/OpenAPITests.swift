import Testing

@testable import RegisPay

@Suite("The OpenAPI document")
struct OpenAPITests {
  private func document() async throws -> JSONValue {
    try JSONReader.read(PackageResources.openapi_json)
  }

  private func members(_ value: JSONValue?) -> [JSONValue.Member] {
    if case .object(let members) = value { members } else { [] }
  }

  @Test("has every route of the API, and no other; the page and the simulators are no part of it")
  func routes() async throws {
    let document = try await document()
    #expect(document["openapi"] == "3.1.0")
    let described = members(document["paths"]).flatMap { path in
      members(path.value).map { "\($0.key.uppercased()) \(path.key)" }
    }
    let served = RouteAccess.all.flatMap { path, methods in methods.keys.map { "\($0.rawValue) \(path)" } }
      .filter { route in
        let path = route.split(separator: " ").last ?? ""
        return path != "/" && path != "/toggle-errors"
          && !["/assets/", "/psp/", "/notifications/"].contains { path.hasPrefix($0) }
      }
    #expect(Set(described) == Set(served))
  }

  @Test("every response about a payment has the members in the document, and no others")
  func responses() async throws {
    let document = try await document()
    try await TestServer.run { server in
      func check(_ response: TestServer.Response, _ schema: String) throws {
        try conform(try response.json(), ["$ref": .string("#/components/schemas/\(schema)")], document, schema)
      }
      let created = try await server.create(#"{"amount":1.50,"currency":"GBP"}"#, path: "/api/v1/payments")
      try check(created, "CreatedPayment")
      let id = try #require(try created.json()["paymentId"]?.text)
      try await eventually("it is completed") {
        try await server.get("/api/v1/payments/\(id)").json()["status"] == "Completed"
      }
      try check(try await server.send("POST", "/api/v1/payments/\(id)/refunds"), "PaymentDetails")
      try check(try await server.get("/api/v1/payments/\(id)"), "PaymentDetails")
      try check(try await server.get("/api/v1/payments"), "PaymentPage")
      try check(try await server.get("/api/v1/payments/\(id)/events"), "PaymentEvents")
      let consumers = try await server.get("/api/v1/consumers")
      try check(consumers, "Consumers")
      for name in ["create", "settle", "cancel", "refund", "notify", "completed"] {
        #expect(consumers.text.contains("\"payment-\(name)\""))
      }
      try check(try await server.get("/api/v1/session"), "Session")
      try check(try await server.get("/api/v1/activity"), "Activity")
      try check(try await server.send("POST", "/api/v1/payments/\(id)/cancel"), "Problem")
      try check(try await server.create("{}", path: "/api/v1/payments"), "Problem")
      try check(try await server.create("{}"), "ReferenceError")
      let hook = try await server.send(
        "POST", "/api/v1/webhooks", headers: [("Content-Type", "application/json")],
        body: Array(#"{"url":"https://example.com/hook"}"#.utf8))
      try check(hook, "WebhookWithSecret")
      let hookID = try #require(try hook.json()["id"]?.text)
      try check(try await server.get("/api/v1/webhooks"), "Webhooks")
      try check(try await server.get("/api/v1/webhooks/\(hookID)"), "Webhook")
      try check(try await server.get("/api/v1/webhooks/\(hookID)/deliveries"), "Deliveries")
    }
  }

  @Test("a point has the members in the document, known or not, and the examples hold")
  func examples() async throws {
    let document = try await document()
    func check(_ value: JSONValue, _ schema: String) throws {
      try conform(value, ["$ref": .string("#/components/schemas/\(schema)")], document, schema)
    }
    var point = ActivityPoint(1)
    try check(point.json, "ActivityPoint")
    point.flow = .init(.init(), seconds: 10)
    point.flow?.completion = .init(p50: 1.25, p99: 3)
    (point.lag, point.parked, point.outcomeUnknown) = (.init(events: 1, seconds: 0.5), 1, 2)
    point.sync = .init(p50: 0.1, p99: 2)
    try check(point.json, "ActivityPoint")
    var readings = ActivityReadings()
    readings.openBreakers = [
      .init(service: "psp", step: nil, state: "open", reason: "status 500"),
      .init(service: "notifications", step: "notify", state: "trying", reason: nil),
    ]
    readings.disk = .init(availableBytes: 1, sizeBytes: 2, fullInSeconds: 3.4)
    let flow = ActivityPoint.Flow(.init(), seconds: 5)
    try check(ActivityTick(microseconds: 1, flow: flow, readings: readings).json, "ActivityTick")
    for schema in members(document["components"]?["schemas"]) {
      if let example = schema.value["example"] { try check(example, schema.key) }
    }
  }

  /// Checks the part of JSON Schema that the document uses for responses.
  private func conform(_ value: JSONValue, _ schema: JSONValue, _ document: JSONValue, _ place: String) throws {
    if let reference = schema["$ref"]?.text {
      let name = reference.split(separator: "/").last.map(String.init) ?? ""
      let target = try #require(document["components"]?["schemas"]?[name], "\(place): \(reference)")
      return try conform(value, target, document, place)
    }
    let kind =
      switch value {
      case .null: "null"
      case .bool: "boolean"
      case .number(let text): text.contains(".") ? "number" : "integer"
      case .string: "string"
      case .array: "array"
      case .object: "object"
      }
    var allowed: [String] = []
    if let one = schema["type"]?.text { allowed = [one] }
    if case .array(let several) = schema["type"] { allowed = several.compactMap(\.text) }
    // A whole number is a number too.
    #expect(
      allowed.isEmpty || allowed.contains(kind) || (kind == "integer" && allowed.contains("number")),
      "\(place) is \(kind), not \(allowed)")
    if case .array(let values) = schema["enum"] { #expect(values.contains(value), "\(place): \(value)") }
    if case .array(let elements) = value, let items = schema["items"] {
      for element in elements { try conform(element, items, document, place + "[]") }
    }
    guard case .object(let members) = value else { return }
    if case .array(let required) = schema["required"] {
      for name in required.compactMap(\.text) { #expect(value[name] != nil, "\(place) has no \(name)") }
    }
    for member in members {
      if let known = schema["properties"]?[member.key] {
        try conform(member.value, known, document, "\(place).\(member.key)")
      } else {
        #expect(schema["additionalProperties"] != .bool(false), "\(place).\(member.key) is not in the document")
      }
    }
  }
}
