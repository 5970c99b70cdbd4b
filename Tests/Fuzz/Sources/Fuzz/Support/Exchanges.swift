import HTTPTypes
import Hummingbird
import Logging
import NIOCore

/// What was asked on one connection.
// Safe to send: the connection is an embedded one, whose tasks all run on the fuzzer's only thread.
final class Exchanges: @unchecked Sendable {
  struct Taken: Equatable {
    var method: String
    var target: String
    var authority: String?
    var fields: [String]
    var body: [UInt8]

    var isEndless: Bool { method != "HEAD" && target.hasPrefix("/e") }
  }

  private(set) var requests: [Taken] = []
  private(set) var count = 0
  var running = 0
  private let keepsRequests: Bool

  init(keepsRequests: Bool) { self.keepsRequests = keepsRequests }

  /// - Returns: the number of those before.
  func take(_ request: Request, _ body: ByteBuffer) -> Int {
    promise(request.head.path?.isEmpty == false, "a request has a target")
    if keepsRequests {
      requests.append(
        Taken(
          method: request.head.method.rawValue, target: request.head.path ?? "", authority: request.head.authority,
          fields: request.headers.map { "\($0.name): \($0.value)" }, body: Array(body.readableBytesView)))
    }
    count += 1
    return count - 1
  }
}

/// Answers with the number of the request: at once, late, in pieces, without a body, or without an end, as its path says.
struct Server: HTTPResponder {
  typealias Context = BasicRequestContext

  let exchanges: Exchanges

  static let number = HTTPField.Name("N")

  func respond(to request: Request, context: Context) async throws -> Response {
    exchanges.running += 1
    defer { exchanges.running -= 1 }
    let body = try await request.body.collect(upTo: 1 << 20)
    promise(body.readableBytes <= 100, "a body within the limit")
    let number = exchanges.take(request, body)
    guard let name = Self.number else { broken("N is a name") }
    var fields = HTTPFields()
    fields[name] = "\(number)"
    let text = ByteBuffer(string: "answer \(number)")
    let path = request.head.path ?? ""
    if path.hasPrefix("/l") { for _ in 0..<3 { await Task.yield() } }
    if request.head.method == .head {
      fields[.contentLength] = "\(text.readableBytes)"
      return Response(status: .ok, headers: fields, body: ResponseBody(contentLength: nil) { try await $0.finish(nil) })
    }
    if path.hasPrefix("/n") {
      return Response(
        status: .noContent, headers: fields, body: ResponseBody(contentLength: nil) { try await $0.finish(nil) })
    }
    if path.hasPrefix("/s") || path.hasPrefix("/e") {
      let isEndless = path.hasPrefix("/e")
      let exchanges = exchanges
      return Response(
        status: .ok, headers: fields,
        body: ResponseBody { writer in
          exchanges.running += 1
          defer { exchanges.running -= 1 }
          try await writer.write(text)
          await Task.yield()
          if isEndless { try await Self.waitForEnd() }
          try await writer.write(text)
          try await writer.finish(nil)
        })
    }
    return Response(status: .ok, headers: fields, body: ResponseBody(byteBuffer: text))
  }

  /// Until the task is cancelled.
  private static func waitForEnd() async throws {
    let (stream, continuation) = AsyncStream.makeStream(of: Void.self)
    await withTaskCancellationHandler {
      for await _ in stream {}
    } onCancel: {
      continuation.finish()
    }
    try Task.checkCancellation()
  }
}

/// The server takes what comes out of order for an error of its own.
struct ErrorsAreBroken: LogHandler {
  var metadata: Logger.Metadata = [:]
  var logLevel = Logger.Level.error

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) { broken("\(event.message) \(event.metadata ?? [:])") }
}
