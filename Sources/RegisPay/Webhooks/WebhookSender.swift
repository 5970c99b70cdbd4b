import NIOCore
import NIOHTTP1

/// The result of sending one message.
enum WebhookResult: Sendable, Hashable {
  /// - Parameter text: how the response's body begins; nil if it is empty.
  case responded(status: Int, retryAfter: Duration?, text: String? = nil)
  /// There was no response; the receiver may or may not have got the message.
  case failed(reason: String)
  /// Nothing was sent, for a reason in this process and not at the receiver.
  case unsent(reason: String)
}

/// Sends messages to one endpoint. It looks up the name for each message, checks every address, and connects to an address that
/// was checked, so a name server that changes its response in between has no effect. The certificate is still checked against
/// the name.
///
/// It does not follow redirects: their destination was not registered.
actor WebhookSender {
  private let options: WebhookOptions
  /// Connects to one address only and keeps its connections open.
  private var pinned: PinnedClient?
  private let share = LookUpShare()

  /// Addresses that are tried one after another if they can't be reached.
  private static let addressLimit = 3
  /// The length at which an error's text is cut off.
  private static let reasonLimit = 300
  /// Bytes of a response's body that are kept.
  private static let bodyLimit = 512

  init(options: WebhookOptions) { self.options = options }

  /// Sends a message once. Returns soon after the task is cancelled.
  nonisolated func send(
    _ body: [UInt8], to url: WebhookURL, signature: WebhookSignature, trace: TraceContext? = nil
  ) async -> WebhookResult {
    let limit = options.timeLimit
    return await withTaskGroup(of: WebhookResult.self) { group in
      group.addTask { await self.attempt(body, url, signature, trace) }
      group.addTask {
        // Cancelled once the other task has ended; its result was returned then.
        try? await Task.sleep(for: limit)
        return .failed(reason: "no response within \(limit)")
      }
      defer { group.cancelAll() }
      // The group has two tasks, so `next()` returns a result.
      return await group.next() ?? .failed(reason: "no response")
    }
  }

  /// Call it when no message is in flight.
  func close() { replace(by: nil) }

  private func attempt(
    _ body: [UInt8], _ url: WebhookURL, _ signature: WebhookSignature, _ trace: TraceContext?
  ) async -> WebhookResult {
    if let refusal = url.refusal(allowingPrivate: options.allowsPrivate) { return .failed(reason: refusal.description) }
    let addresses: [IPAddress]
    do throws(HostResolver.Failure) {
      addresses =
        if let literal = url.literal { [literal] } else { try await options.resolver.addresses(url.host, share) }
    } catch {
      switch error {
      case .unresolved(let reason): return .failed(reason: reason)
      case .noRoom(let reason): return .unsent(reason: reason)
      }
    }
    for address in addresses {
      if let reason = address.refusal(allowingPrivate: options.allowsPrivate) {
        return .failed(reason: "the name leads to \(address), \(reason)")
      }
    }
    // The address that was reached last comes first: its connections are open.
    let known = addresses.filter { pinned?.serves(url, $0) ?? false }
    var result = WebhookResult.failed(reason: "the name has no address")
    for address in (known + addresses.filter { !known.contains($0) }).prefix(Self.addressLimit) {
      result = await post(body, url, signature, trace, to: address)
      // Without a free socket the next address would fail as well.
      switch result {
      case .responded, .unsent: return result
      case .failed: break
      }
      if Task.isCancelled { break }
    }
    return result
  }

  private func post(
    _ body: [UInt8], _ url: WebhookURL, _ signature: WebhookSignature, _ trace: TraceContext?, to address: IPAddress
  ) async -> WebhookResult {
    let client: PinnedClient
    do {
      client = try self.client(for: url, at: address)
    } catch {
      return .failed(reason: String("\(error)".prefix(Self.reasonLimit)))
    }
    defer { client.end() }
    var head = HTTPRequestHead(
      version: .http1_1, method: .POST, uri: url.target,
      headers: [
        "Host": client.pool.endpoint.authority, "Content-Type": "application/json",
        "User-Agent": "RegisPay-Webhooks/1", "webhook-id": signature.id,
        "webhook-timestamp": String(signature.timestamp), "webhook-signature": signature.field,
        "Content-Length": String(body.count),
      ])
    trace?.add(to: &head.headers)
    switch await client.pool.send(.init(head: head, body: ByteBuffer(bytes: body))) {
    case .success(let response):
      return .responded(
        status: response.status, retryAfter: response.retryAfter, text: Self.beginning(of: response.body))
    case .failure(.noSocket): return .unsent(reason: "\(CallFailure.noSocket)")
    case .failure(let failure): return .failed(reason: String("\(failure)".prefix(Self.reasonLimit)))
    }
  }

  /// How a body begins, for a person to read: without what can't be shown on a line, and cut off where it is long.
  static func beginning(of body: [UInt8]) -> String? {
    guard !body.isEmpty else { return nil }
    var text = ""
    for scalar in String(decoding: body.prefix(bodyLimit), as: UTF8.self).unicodeScalars {
      let isControl = scalar.properties.generalCategory == .control && scalar != "\n" && scalar != "\t"
      text.unicodeScalars.append(isControl ? "\u{FFFD}" : scalar)
    }
    return body.count > bodyLimit ? text + "…" : text
  }

  /// A client for the address. The caller calls its `end()`.
  private func client(for url: WebhookURL, at address: IPAddress) throws -> PinnedClient {
    if let pinned, pinned.serves(url, address) {
      pinned.begin()
      return pinned
    }
    let client = try PinnedClient(
      url, address: address, callLimit: options.callLimit, timeLimit: options.timeLimit, sockets: options.sockets)
    client.begin()
    replace(by: client)
    return client
  }

  private func replace(by client: PinnedClient?) {
    pinned?.retire()
    pinned = client
  }
}
