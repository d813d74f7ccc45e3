//! What a warp learns of others, and what it lets them know: fences, releases and acquisitions (PTX ISA 8.8).

use crate::findings::at::At;
use crate::state::block::Block;
use crate::state::place::{Place, generic};
use crate::state::run::Cx;
use crate::state::warp::{LANES, lanes};
use crate::text::ins::Access;
use crate::types::{Order, Scope, Space};

/// A strong access: what it does where, and what it promises.
#[derive(Clone, Copy)]
pub(crate) struct Strong {
    pub(crate) space: Space,
    pub(crate) reads: bool,
    pub(crate) writes: bool,
    pub(crate) order: Order,
    pub(crate) scope: Scope,
}

impl Strong {
    /// An access that neither reads nor writes yet.
    pub(crate) fn of(access: &Access) -> Strong {
        Strong { space: access.space, reads: false, writes: false, order: access.order, scope: access.scope }
    }
}

impl Block {
    /// A fence: what was observed is learnt, and what is known is what relaxed writes publish from now on.
    pub(crate) fn fence(&mut self, w: usize, order: Order, scope: Scope) {
        if order.acquires()
            && let Some(observed) = self.observed[w].take()
        {
            self.knowledge[w].join(&observed);
        }
        if order.releases() {
            let known = Some(self.knowledge[w].clone());
            if scope > Scope::Cta {
                self.fenced_wide[w].clone_from(&known);
            }
            self.fenced[w] = known;
            self.tick(w);
        }
    }

    /// What strong accesses release and acquire (PTX ISA 8.8: release and acquire patterns).
    pub(crate) fn synchronise(&mut self, cx: &mut Cx<'_>, at: At, addresses: &[u64; LANES], sync: Strong) {
        let At { w, mask, .. } = at;
        let Strong { space, reads, writes, order, scope } = sync;
        let shared_space = matches!(space, Space::Shared | Space::SharedCluster);
        let publishes = writes && (order.releases() || self.fenced[w].is_some() || self.fenced_wide[w].is_some());
        let mut keys = [0; LANES];
        let mut count = 0;
        for lane in lanes(mask) {
            let place = if shared_space { Place::Shared(addresses[lane]) } else { generic(addresses[lane]) };
            let (key, shared) = match place {
                Place::Global(address) => (address & !3, false),
                Place::Shared(offset) => (offset & !3, true),
                Place::Local(_) | Place::Param(_) => continue,
            };
            // Nothing passes between blocks at the scope of one.
            if !shared && scope == Scope::Cta {
                continue;
            }
            let tagged = key << 1 | u64::from(shared);
            if !keys[..count].contains(&tagged) {
                keys[count] = tagged;
                count += 1;
            }
        }
        for &tagged in &keys[..count] {
            let (key, shared) = (tagged >> 1, tagged & 1 == 1);
            if reads {
                let published = if shared { self.published.get(&key) } else { cx.published.get(&key) };
                if let Some(published) = published {
                    if order.acquires() {
                        self.knowledge[w].join_published(self.number, published);
                    } else {
                        let observed = self.observed[w].get_or_insert_default();
                        observed.join_published(self.number, published);
                    }
                }
            }
            if publishes {
                let fenced = if shared { &self.fenced[w] } else { &self.fenced_wide[w] };
                let released = if order.releases() { Some(&self.knowledge[w]) } else { fenced.as_ref() };
                let Some(released) = released.cloned() else { continue };
                let map = if shared { &mut self.published } else { &mut cx.published };
                let published = map.entry(key).or_default();
                if !reads {
                    // A plain store ends the release sequence that was there.
                    published.clear();
                }
                published.entry(self.number).or_default().join(&released);
            }
        }
        if publishes && order.releases() {
            self.tick(w);
        }
    }
}
