import Hummingbird
import NIOCore

/// What the middlewares and the route know about one request.
struct HTTPRequestContext: RequestContext {
  var coreContext: CoreRequestContextStorage
  let channel: any Channel
  /// The request's API key; nil without a valid one.
  var key: StoredKey?
  /// Who has that key.
  var holder: KeyHolder? { key?.holder }
  /// The server has keys, so that a request without a valid one gets only what is open to everybody.
  var needsKey = false
  /// The owner of the request's API key.
  var owner = RequestOwner.everybody
  /// Whether the response may contain the server's inner state, such as paths and responses of webhook receivers.
  var mayRead = false
  /// Identifies the client for limits: an API key, or an address for requests without a key.
  var client = "unknown"
  /// Whether the request would still be allowed now. Long responses check it.
  var isStillAllowed: @Sendable () -> Bool = { true }

  init(source: ApplicationRequestContextSource) {
    coreContext = .init(source: source)
    channel = source.channel
  }
}
