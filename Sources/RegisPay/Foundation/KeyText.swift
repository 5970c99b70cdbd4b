extension String {
  /// With `rp_…` in place of API keys and `whsec_…` in place of webhooks' secrets: a client may have put one into a path or a name by
  /// mistake, and responses are kept in more places than keys are.
  var withoutKeys: String {
    guard contains("rp_") || contains("whsec_") else { return self }
    return replacing(/rp_[0-9a-f]{12}_[0-9a-f]+/, with: "rp_…").replacing(
      /whsec_[A-Za-z0-9+\/=_-]{16,}/, with: "whsec_…")
  }
}
