import HTTPTypes
import Hummingbird
import LogStore

/// The simulator over HTTP, on the reference's routes.
struct SimulatorRoutes: Sendable {
  let simulator: Simulator
  let ledger: Ledger

  private static let bodyLimit = 64 << 10

  func add(to router: Routes) {
    router.answer(
      "/psp/api/payments/create",
      [
        .post: { request, _ in
          try await answer(request) { key, body throws(LogStoreError) in
            try await simulator.createPayment(key: key, body: body)
          }
        }
      ])
    router.answer(
      "/psp/api/payments/{reference}/settle",
      [
        .post: { request, context in
          let reference = context.parameters.get("reference") ?? ""
          return try await answer(request) { key, _ throws(LogStoreError) in
            try await simulator.settlePayment(reference: reference, key: key)
          }
        }
      ])
    router.answer(
      "/psp/api/payments/{reference}/cancel",
      [
        .post: { request, context in
          let reference = context.parameters.get("reference") ?? ""
          return try await answer(request) { key, _ throws(LogStoreError) in
            try await simulator.cancelPayment(reference: reference, key: key)
          }
        }
      ])
    router.answer(
      "/psp/api/payments/{reference}/refunds",
      [
        .post: { request, context in
          let reference = context.parameters.get("reference") ?? ""
          return try await answer(request) { key, body throws(LogStoreError) in
            try await simulator.refundPayment(reference: reference, key: key, body: body)
          }
        }
      ])
    router.answer(
      "/notifications/api/send",
      [
        .post: { request, _ in
          try await answer(request) { key, body throws(LogStoreError) in
            try await simulator.sendNotification(key: key, body: body)
          }
        }
      ])
    router.answer(
      "/toggle-errors", [.post: { _, _ in Response(json: ["errors": .bool(simulator.toggleErrors())]) }])
    router.answer("/psp/api/ledger", [.get: { _, _ in ledgerResponse(try await ledger.all()) }])
  }

  private func answer(
    _ request: Request,
    by act: (_ key: String?, _ body: JSONValue) async throws(LogStoreError) -> Simulator.Answer
  ) async throws -> Response {
    if let outage = simulator.outage { return response(outage) }
    let bytes = try await request.readBody(limit: Self.bodyLimit)
    let body: JSONValue
    do {
      // The reference's settle route takes no body.
      body = bytes.isEmpty ? [:] : try JSONReader.read(bytes)
    } catch {
      throw Problem.badRequest("The body is \(error).")
    }
    do {
      return response(try await act(request.headers[.idempotencyKey], body))
    } catch {
      throw Problem.unavailable("The simulator's log can't write now.")
    }
  }

  private func response(_ answer: Simulator.Answer) -> Response {
    Response(json: answer.body, status: .init(code: answer.status))
  }

  /// Written piece by piece, as a ledger may be long.
  private func ledgerResponse(_ charges: [Charge]) -> Response {
    let body = ResponseBody { writer in
      var bytes = Array("{\"count\":\(charges.count),\"charges\":[".utf8)
      for (index, charge) in charges.enumerated() {
        if index > 0 { bytes.append(UInt8(ascii: ",")) }
        charge.json.write(to: &bytes)
        guard bytes.count > 32 << 10 else { continue }
        try await writer.write(ByteBuffer(bytes: bytes))
        bytes.removeAll(keepingCapacity: true)
      }
      bytes.append(contentsOf: "]}".utf8)
      try await writer.write(ByteBuffer(bytes: bytes))
      try await writer.finish(nil)
    }
    return Response(status: .ok, headers: [.contentType: "application/json; charset=utf-8"], body: body)
  }
}

extension HTTPField.Name {
  /// The field that makes a request repeatable (draft-ietf-httpapi-idempotency-key-header).
  // A token by RFC 9110, which is all that the initialiser asks.
  static let idempotencyKey = HTTPField.Name("Idempotency-Key")!
}
