"""Pre-training against the release: mim_forward.npz and mim_trajectory.npz."""

import json

import torch

from beit_mm.engine import LayerDecayOptimWrapperConstructor


def grids(file, step=None):
    """Mask and tokens of the file as 4 x 4 grids."""
    mask, tokens = file['mask'], file['token_ids']
    if step is not None:
        mask, tokens = mask[step], tokens[step]
    return mask.unflatten(1, (4, 4)), tokens.unflatten(1, (4, 4))


def test_forward_loss_and_gradients(mim_model, relative_error):
    model, file = mim_model()
    mask, tokens = grids(file)
    masked = mask.flatten().nonzero().squeeze(1)
    logits = model._predict(file['x'], mask, masked)
    assert relative_error(logits, file['masked_logits']) < 1e-5

    loss = model.loss(file['x'], tokens, mask)['loss']
    loss.backward()
    assert relative_error(loss, file['loss']) < 1e-5
    parameters = {name.removeprefix('backbone.'): p for name, p in model.named_parameters()}
    names = file.names('grad/')
    assert len(names) > 30
    for name in names:
        assert relative_error(parameters[name].grad, file[f'grad/{name}']) < 1e-5, name
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert relative_error(norm, file['grad_norm']) < 1e-5


def test_twenty_optimiser_steps(mim_model, reference):
    model, _ = mim_model()
    file = reference('mim_trajectory.npz')
    hyper = json.loads(str(file.arrays['hyper']))
    optimizer = dict(type='AdamW', lr=1.0, betas=hyper['betas'], eps=hyper['eps'], weight_decay=hyper['weight_decay'])
    wrapper = LayerDecayOptimWrapperConstructor(
        dict(type='beit_mm.AutocastOptimWrapper', optimizer=optimizer, clip_grad=dict(max_norm=hyper['clip_grad_norm']))
    )(model)
    for step in range(20):
        for group in wrapper.optimizer.param_groups:
            group['lr'] = float(file['lr'][step])
        mask, tokens = grids(file, step)
        loss = model.loss(file['x'][step], tokens, mask)['loss']
        wrapper.update_params(loss)
        wrapper.scalars.flush(wrapper.message_hub)
        norm = wrapper.message_hub.get_scalar('train/grad_norm').current()
        assert abs(loss.item() / float(file['loss'][step]) - 1) < 1e-4, step
        assert abs(norm / float(file['grad_norm'][step]) - 1) < 1e-4, step
