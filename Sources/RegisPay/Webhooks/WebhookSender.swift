import AsyncHTTPClient
import NIOCore

/// How one try ended.
enum WebhookResult: Sendable, Hashable {
  case answered(status: Int, retryAfter: Duration?)
  /// Without an answer; whether the receiver got it is unknown.
  case failed(reason: String)
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

  /// Bytes of an answer that are read, so that the connection can be used again; none is looked at.
  private static let answerLimit = 16 << 10
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
  func close() async { await replace(by: nil) }

  private func attempt(_ body: [UInt8], _ url: WebhookURL, _ signature: WebhookSignature) async -> WebhookResult {
    if let refusal = url.refusal(allowingPrivate: options.allowsPrivate) { return .failed(reason: refusal.description) }
    let addresses: [IPAddress]
    do throws(HostResolver.Failure) {
      addresses = if let literal = url.literal { [literal] } else { try await options.resolver.addresses(url.host) }
    } catch {
      return .failed(reason: error.description)
    }
    for address in addresses {
      if let reason = address.refusal(allowingPrivate: options.allowsPrivate) {
        return .failed(reason: "the name leads to \(address), \(reason)")
      }
    }
    // The one that worked last is gone on with, on its open connections.
    let known = addresses.filter { pinned?.serves(url.host, $0) ?? false }
    var result = WebhookResult.failed(reason: "the name has no address")
    for address in (known + addresses.filter { !known.contains($0) }).prefix(Self.addressLimit) {
      result = await post(body, url, signature, to: address)
      if case .answered = result { break }
      if Task.isCancelled { break }
    }
    return result
  }

  private func post(
    _ body: [UInt8], _ url: WebhookURL, _ signature: WebhookSignature, to address: IPAddress
  ) async -> WebhookResult {
    let client = await client(for: url.host, at: address)
    defer { client.end() }
    var request = HTTPClientRequest(url: url.text)
    request.method = .POST
    request.headers.add(name: "Content-Type", value: "application/json")
    request.headers.add(name: "User-Agent", value: "RegisPay-Webhooks/1")
    request.headers.add(name: "webhook-id", value: signature.id)
    request.headers.add(name: "webhook-timestamp", value: String(signature.timestamp))
    request.headers.add(name: "webhook-signature", value: signature.field)
    request.body = .bytes(ByteBuffer(bytes: body))
    do {
      let response = try await client.http.execute(request, deadline: .now() + TimeAmount(options.timeLimit))
      var count = 0
      // What comes after the limit is cut off with its connection.
      for try await part in response.body {
        count += part.readableBytes
        if count > Self.answerLimit { break }
      }
      let after = response.headers.first(name: "Retry-After").flatMap(Self.seconds)
      return .answered(status: Int(response.status.code), retryAfter: after)
    } catch {
      return .failed(reason: String("\(error)".prefix(Self.reasonLimit)))
    }
  }

  /// A number of seconds; the field's other form, a date, is left to our own delays.
  private static func seconds(_ field: String) -> Duration? {
    guard let seconds = Int32(field), seconds >= 0 else { return nil }
    return .seconds(seconds)
  }

  /// A client that is in use until its `end`.
  private func client(for host: String, at address: IPAddress) async -> PinnedClient {
    if let pinned, pinned.serves(host, address) {
      pinned.begin()
      return pinned
    }
    let client = PinnedClient(host: host, address: address, callLimit: options.callLimit, timeLimit: options.timeLimit)
    client.begin()
    await replace(by: client)
    return client
  }

  private func replace(by client: PinnedClient?) async {
    let before = pinned
    pinned = client
    await before?.retire()
  }
}
