import Hummingbird
import NIOCore

/// One request and its answer, with the connection that they go over.
struct HTTPRequestContext: RequestContext {
  var coreContext: CoreRequestContextStorage
  let channel: any Channel
  /// Whose API key the request came with.
  var owner = RequestOwner.everybody
  /// Whether it may see how the server is, beside whether it is well: paths, and what receivers of webhooks answer.
  var mayRead = false

  /// Who it is, as far as limits are concerned: a key, or without one an address.
  var client = "unknown"
  /// Whether the request would be let in now as it was; for answers that take long.
  var isStillAllowed: @Sendable () -> Bool = { true }

  init(source: ApplicationRequestContextSource) {
    coreContext = .init(source: source)
    channel = source.channel
  }
}
