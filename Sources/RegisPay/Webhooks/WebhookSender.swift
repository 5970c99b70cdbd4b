import NIOCore
import NIOHTTP1

/// How one try ended.
enum WebhookResult: Sendable, Hashable {
  case answered(status: Int, retryAfter: Duration?)
  /// Without an answer; whether the receiver got it is unknown.
  case failed(reason: String)
  /// Nothing was sent, for a reason that is this process's and not the receiver's.
  case unsent(reason: String)
}

/// Sends messages to one endpoint: looks its name up for each, checks every address, and connects to one of those that
/// were checked, so that an answer of the name's servers which changes in between leads nowhere. The certificate is still
/// checked against the name.
///
/// Redirects are not followed: nobody registered where they lead.
actor WebhookSender {
  private let options: WebhookOptions
  /// Connects to one address only, whose connections are kept open.
  private var pinned: PinnedClient?
  private let share = LookUpShare()

  /// Addresses that are tried one after another when they can't be reached.
  private static let addressLimit = 3
  /// Bytes of an error that are kept.
  private static let reasonLimit = 300

  init(options: WebhookOptions) { self.options = options }

  /// Makes one try. When the task is cancelled it returns soon.
  nonisolated func send(_ body: [UInt8], to url: WebhookURL, signature: WebhookSignature) async -> WebhookResult {
    let limit = options.timeLimit
    return await withTaskGroup(of: WebhookResult.self) { group in
      group.addTask { await self.attempt(body, url, signature) }
      group.addTask {
        // Cut short by the answer, which then has been returned.
        try? await Task.sleep(for: limit)
        return .failed(reason: "no answer within \(limit)")
      }
      defer { group.cancelAll() }
      // There are two.
      return await group.next() ?? .failed(reason: "no answer")
    }
  }

  /// To be called when nothing is under way.
  func close() { replace(by: nil) }

  private func attempt(_ body: [UInt8], _ url: WebhookURL, _ signature: WebhookSignature) async -> WebhookResult {
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
    // The one that worked last is gone on with, on its open connections.
    let known = addresses.filter { pinned?.serves(url, $0) ?? false }
    var result = WebhookResult.failed(reason: "the name has no address")
    for address in (known + addresses.filter { !known.contains($0) }).prefix(Self.addressLimit) {
      result = await post(body, url, signature, to: address)
      // Without a socket the next address fares no better.
      switch result {
      case .answered, .unsent: return result
      case .failed: break
      }
      if Task.isCancelled { break }
    }
    return result
  }

  private func post(
    _ body: [UInt8], _ url: WebhookURL, _ signature: WebhookSignature, to address: IPAddress
  ) async -> WebhookResult {
    let client: PinnedClient
    do {
      client = try self.client(for: url, at: address)
    } catch {
      return .failed(reason: String("\(error)".prefix(Self.reasonLimit)))
    }
    defer { client.end() }
    let head = HTTPRequestHead(
      version: .http1_1, method: .POST, uri: url.target,
      headers: [
        "Host": client.pool.endpoint.authority, "Content-Type": "application/json",
        "User-Agent": "RegisPay-Webhooks/1", "webhook-id": signature.id,
        "webhook-timestamp": String(signature.timestamp), "webhook-signature": signature.field,
        "Content-Length": String(body.count),
      ])
    switch await client.pool.send(.init(head: head, body: ByteBuffer(bytes: body))) {
    case .success(let answer):
      return .answered(status: answer.status, retryAfter: answer.retryAfter)
    case .failure(.noSocket): return .unsent(reason: "\(CallFailure.noSocket)")
    case .failure(let failure): return .failed(reason: String("\(failure)".prefix(Self.reasonLimit)))
    }
  }

  /// A client that is in use until its `end`.
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
