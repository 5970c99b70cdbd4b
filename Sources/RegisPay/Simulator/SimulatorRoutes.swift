import HTTPTypes
import Hummingbird
import LogStore

/// Serves the simulator over HTTP, on the reference's routes.
struct SimulatorRoutes: Sendable {
  let simulator: Simulator
  /// Those that it stands for; the others have no routes.
  let services: Set<Simulator.Service>
  let ledger: Ledger
  /// nil where there is no payments log: in a program of its own.
  var actions: ActionLog?

  private static let bodyLimit = 64 << 10

  /// Whether a route exists while the simulator stands for these services.
  static func isServed(_ route: String, by services: Set<Simulator.Service>) -> Bool {
    !isSimulators(route) || isOwn(route, for: services)
  }

  /// Whether a route is one of the simulator while it stands for these services.
  static func isOwn(_ route: String, for services: Set<Simulator.Service>) -> Bool {
    if route.hasPrefix("/psp/") { return services.contains(.psp) }
    if route.hasPrefix("/notifications/") { return services.contains(.notifications) }
    return route == "/toggle-errors" && !services.isEmpty
  }

  private static func isSimulators(_ route: String) -> Bool { isOwn(route, for: Set(Simulator.Service.allCases)) }

  func add(to router: Routes) {
    let simulator = simulator
    add(to: router, "/psp/api/payments/create", .psp) { key, _, body throws(LogStoreError) in
      try await simulator.createPayment(key: key, body: body)
    }
    add(to: router, "/psp/api/payments/{reference}/settle", .psp) { key, reference, _ throws(LogStoreError) in
      try await simulator.settlePayment(reference: reference, key: key)
    }
    add(to: router, "/psp/api/payments/{reference}/cancel", .psp) { key, reference, _ throws(LogStoreError) in
      try await simulator.cancelPayment(reference: reference, key: key)
    }
    add(to: router, "/psp/api/payments/{reference}/refunds", .psp) { key, reference, body throws(LogStoreError) in
      try await simulator.refundPayment(reference: reference, key: key, body: body)
    }
    add(to: router, "/notifications/api/send", .notifications) { key, _, body throws(LogStoreError) in
      try await simulator.sendNotification(key: key, body: body)
    }
    addFaults(to: router, "/psp/api/faults", .psp)
    addFaults(to: router, "/notifications/api/faults", .notifications)
    router.handle(
      "/toggle-errors",
      [
        .post: { [actions] _, context in
          let isFailing = simulator.toggleErrors()
          await actions?.record(.errorsToggled, nil, [.init("errors", .bool(isFailing))], by: context.holder)
          return Response(json: ["errors": .bool(isFailing)])
        }
      ])
    if services.contains(.psp) { router.handle("/psp/api/ledger", [.get: { _, _ in ledgerResponse() }]) }
  }

  private typealias Act =
    @Sendable (_ key: String?, _ reference: String, _ body: JSONValue) async throws(LogStoreError) -> Simulator.Response

  private func add(
    to router: Routes, _ path: RouterPath, _ service: Simulator.Service, _ act: @escaping Act
  ) {
    guard services.contains(service) else { return }
    router.handle(
      path,
      [
        .post: { request, context in
          try await respond(request, context, service) { key, body throws(LogStoreError) in
            try await act(key, context.parameters.get("reference") ?? "", body)
          }
        }
      ])
  }

  /// Shows the faults with GET, replaces them with PUT and ends them with DELETE.
  private func addFaults(to router: Routes, _ path: RouterPath, _ service: Simulator.Service) {
    guard services.contains(service) else { return }
    let simulator = simulator
    router.handle(
      path,
      [
        .get: { _, _ in Response(json: simulator.faults(of: service).json) },
        .put: { [actions] request, context in
          let faults: Faults
          do {
            faults = try Faults(try await request.readJSON(limit: Self.bodyLimit))
          } catch let error as FaultsError {
            throw Problem.badRequest("Nothing was changed: \(error).")
          } catch let error as JSONError {
            throw Problem.badRequest("The body is \(error).")
          }
          simulator.setFaults(faults, of: service)
          await actions?.record(.faultsChanged, service.rawValue, [.init("faults", faults.json)], by: context.holder)
          return Response(json: faults.json)
        },
        .delete: { [actions] _, context in
          simulator.setFaults(Faults(), of: service)
          await actions?.record(.faultsChanged, service.rawValue, by: context.holder)
          return Response(json: Faults().json)
        },
      ])
  }

  private func respond(
    _ request: Request, _ context: HTTPRequestContext, _ service: Simulator.Service,
    by act: (_ key: String?, _ body: JSONValue) async throws(LogStoreError) -> Simulator.Response
  ) async throws -> Response {
    if let outage = simulator.outage { return response(outage) }
    let bytes = try await request.readBody(limit: Self.bodyLimit)
    let body: JSONValue
    do {
      // The reference's settle route takes no body.
      body = bytes.isEmpty ? [:] : try await Request.json(bytes)
    } catch {
      throw Problem.badRequest("The body is \(error).")
    }
    let faults = simulator.faults(of: service)
    let delay = faults.delay.milliseconds(.random(in: 0..<1))
    if delay > 0 { try await Task.sleep(for: .microseconds(Int64(delay * 1_000))) }
    let fault = faults.fault { .random(in: 0..<1) }
    if let fault, !fault.isAfter { return await carryOut(fault, faults, context) }
    let simulated: Simulator.Response
    do {
      simulated = try await act(request.headers[.idempotencyKey], body)
    } catch {
      throw Problem.unavailable(
        "The simulator's log can't write now; its log lines say why. Repeat the request later, with the same key.")
    }
    if let fault { return await carryOut(fault, faults, context) }
    return response(simulated)
  }

  private func carryOut(_ fault: Faults.Fault, _ faults: Faults, _ context: HTTPRequestContext) async -> Response {
    switch fault {
    case .fail(let status, _): return response(Simulator.failure(status, faults))
    case .drop: return await drop(context)
    }
  }

  /// Closes the connection, so that the response goes nowhere.
  private func drop(_ context: HTTPRequestContext) async -> Response {
    // The only error: the connection is closed already.
    try? await context.channel.close()
    return Response(status: .internalServerError)
  }

  private func response(_ simulated: Simulator.Response) -> Response {
    var response = Response(json: simulated.body, status: .init(code: simulated.status))
    if let seconds = simulated.retryAfter { response.headers[.retryAfter] = String(seconds) }
    return response
  }

  /// Writes the ledger piece by piece, as it may be long.
  private func ledgerResponse() -> Response {
    let body = ResponseBody { [ledger] writer in
      var output = writer
      var bytes = Array("{\"charges\":[".utf8)
      var count = 0
      try await ledger.forEachPage { page in
        for charge in page {
          if count > 0 { bytes.append(UInt8(ascii: ",")) }
          count += 1
          charge.json.write(to: &bytes)
        }
        try await output.write(ByteBuffer(bytes: bytes))
        bytes.removeAll(keepingCapacity: true)
      }
      bytes.append(contentsOf: "],\"count\":\(count)}".utf8)
      try await output.write(ByteBuffer(bytes: bytes))
      try await output.finish(nil)
    }
    return Response(status: .ok, headers: [.contentType: "application/json; charset=utf-8"], body: body)
  }
}

extension HTTPField.Name {
  /// The field that makes a request repeatable (draft-ietf-httpapi-idempotency-key-header).
  // Never nil: the initialiser only requires a token by RFC 9110.
  static let idempotencyKey = HTTPField.Name("Idempotency-Key")!
}
