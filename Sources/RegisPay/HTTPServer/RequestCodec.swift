import DequeModule
import HTTPTypes
import NIOCore
import NIOHTTP1
import NIOHTTPTypes
import NIOHTTPTypesHTTP1

/// Converts the HTTP/1 decoder's request parts into the server's types, and the server's responses into the encoder's types. A
/// request that RFC 9112 forbids an origin server to accept is an error, ``Problem``, after which no further request is read.
///
/// One Connection field `close` replaces a request's Connection fields if the connection ends with its response. A response to
/// HTTP/1.0 is HTTP/1.0 itself: never chunked, and kept alive only if the request asked for it. A response to HEAD has no body.
final class RequestCodec: ChannelDuplexHandler, RemovableChannelHandler {
  typealias InboundIn = HTTPServerRequestPart
  typealias InboundOut = HTTPRequestPart
  typealias OutboundIn = HTTPResponsePart
  typealias OutboundOut = HTTPServerResponsePart

  /// The properties of a request that determine the form of its response.
  private struct PendingResponse {
    var isHTTP10: Bool
    var keepsAlive: Bool
    var isToHead: Bool
  }

  /// One for each request without a complete response, in order.
  private var pendingResponses: Deque<PendingResponse> = []
  /// The end of the connection ends the current response.
  private var endsWithConnection = false
  private var isRefused = false
  /// The refused request is a HEAD; its response follows `pendingResponses`.
  private var isRefusedHead = false

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard !isRefused else { return }
    switch unwrapInboundIn(data) {
    case .head(let head):
      do {
        let (request, pending) = try Self.request(head)
        pendingResponses.append(pending)
        context.fireChannelRead(wrapInboundOut(.head(request)))
      } catch {
        isRefused = true
        isRefusedHead = head.method == .HEAD
        context.fireErrorCaught(error)
      }
    case .body(let body): context.fireChannelRead(wrapInboundOut(.body(body)))
    case .end(let trailers):
      // Routes use no trailers.
      _ = trailers
      context.fireChannelRead(wrapInboundOut(.end(nil)))
    }
  }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    switch unwrapOutboundIn(data) {
    case .head(let response):
      var head = HTTPResponseHead(response)
      // The response to a malformed request has no entry here.
      if response.status.kind != .informational, let pending = pendingResponses.first, pending.isHTTP10 {
        head.version = .http1_0
        let hasLength = response.headerFields[.contentLength] != nil || response.status == .noContent
        endsWithConnection = !hasLength
        if !hasLength {
          head.headers.replaceOrAdd(name: "Connection", value: "close")
        } else if pending.keepsAlive, response.headerFields[.connection] == nil {
          head.headers.add(name: "Connection", value: "keep-alive")
        }
      }
      context.write(wrapOutboundOut(.head(head)), promise: promise)
    case .body(let body):
      if pendingResponses.first?.isToHead ?? isRefusedHead {
        promise?.succeed()
      } else {
        context.write(wrapOutboundOut(.body(.byteBuffer(body))), promise: promise)
      }
    case .end(let trailers):
      _ = pendingResponses.popFirst()
      context.write(wrapOutboundOut(.end(trailers.map(HTTPHeaders.init))), promise: promise)
      guard endsWithConnection else { return }
      endsWithConnection = false
      context.flush()
      context.close(promise: nil)
    }
  }

  private static func request(_ head: HTTPRequestHead) throws -> (HTTPRequest, PendingResponse) {
    try checkFraming(head)
    let isHTTP10 = head.version.minor == 0
    let target = try RequestTarget(head)
    // The decoder takes Proxy-Connection for Connection, and what the two sides think of the connection must be the same.
    let options = (head.headers.values("Connection") + head.headers.values("Proxy-Connection"))
      .flatMap { $0.split(separator: ",") }
      .map { $0.filter { $0 != " " && $0 != "\t" }.lowercased() }
    // The decoder reads nothing after these: the bytes that follow would belong to another protocol.
    let leavesHTTP = head.method == .CONNECT || (options.contains("upgrade") && head.headers.contains(name: "Upgrade"))
    let keepsAlive =
      isHTTP10 ? options.contains("keep-alive") && !options.contains("close") : !options.contains("close")
    let pending = PendingResponse(
      isHTTP10: isHTTP10, keepsAlive: keepsAlive && !leavesHTTP, isToHead: head.method == .HEAD)
    var fields = HTTPFields(head.headers, splitCookie: false)
    fields[.connection] = pending.keepsAlive ? nil : "close"
    // HTTP/1.0 does not define Expect.
    if isHTTP10 { fields[.expect] = nil }
    let request = HTTPRequest(
      method: try HTTPRequest.Method(head.method), scheme: "http", authority: target.authority, path: target.path,
      headerFields: fields)
    return (request, pending)
  }

  /// The body's length must be unambiguous: bytes that this server reads as two requests and a proxy as one would bypass the
  /// proxy (request smuggling).
  private static func checkFraming(_ head: HTTPRequestHead) throws(Problem) {
    let codings = head.headers.values("Transfer-Encoding").flatMap {
      $0.split(separator: ",", omittingEmptySubsequences: false)
    }
    .map { $0.filter { $0 != " " && $0 != "\t" }.lowercased() }
    if !codings.isEmpty {
      guard head.version.minor > 0 else { throw .badRequest("HTTP/1.0 has no Transfer-Encoding.") }
      guard !head.headers.contains(name: "Content-Length") else {
        throw .badRequest("A request has a Content-Length or a Transfer-Encoding, not both.")
      }
      guard codings == ["chunked"] else {
        throw Problem(
          status: .notImplemented, name: "transfer-encoding", detail: "The only Transfer-Encoding supported is chunked."
        )
      }
    }
    let lengths = head.headers.values("Content-Length")
    guard lengths.count < 2, lengths.allSatisfy({ $0.utf8.allSatisfy { (48...57).contains($0) } && !$0.isEmpty }) else {
      throw .badRequest("Content-Length is one number.")
    }
    let expectations = head.headers.values("Expect")
    guard head.version.minor == 0 || expectations.allSatisfy({ $0.lowercased() == "100-continue" }) else {
      throw .expectationFailed
    }
  }
}
